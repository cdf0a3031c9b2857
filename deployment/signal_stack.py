"""Restore the alternate signal stack after a library has replaced it."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SS_DISABLE = 2


class SignalStack(ctypes.Structure):
    """`stack_t` of sigaltstack(2) on Linux."""

    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


def current() -> SignalStack | None:
    """Return the alternate signal stack of the calling thread; None on systems other than Linux."""
    if sys.platform != "linux":
        return None
    stack = SignalStack()
    return stack if ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0 else None


@contextmanager
def restore_signal_stack() -> Iterator[None]:
    """Restore the alternate signal stack of the thread at the end.

    OpenVINO's CPU plugin sets a stack of the smallest size (AT_MINSIGSTKSZ), which holds only the frame of one
    signal. The next Python signal handler (Ctrl-C, SIGTERM, SIGCHLD of a data loader) would crash with a segmentation
    fault.
    """
    before = current()
    try:
        yield
    finally:
        if before is not None:
            ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)
