"""The stack that signal handlers run on, kept from a library that replaces it."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SS_DISABLE = 2


class Stack(ctypes.Structure):
    """`stack_t` of sigaltstack(2) on Linux."""

    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


def current() -> Stack | None:
    """The calling thread's alternate signal stack; None where that cannot be asked (not Linux)."""
    if sys.platform != "linux":
        return None
    stack = Stack()
    return stack if ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0 else None


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Put the thread's alternate signal stack back as it was.

    OpenVINO's CPU plugin sets one of the kernel's least size (AT_MINSIGSTKSZ), which holds the frame of a signal and
    nothing more: the next handler that Python has installed (Ctrl-C, SIGTERM, a data loader's SIGCHLD) would end the
    process with a segmentation fault.
    """
    before = current()
    try:
        yield
    finally:
        if before is not None:
            ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)
