"""What a library does to the stack of signal handlers is undone."""

import ctypes
import subprocess
import sys

import pytest

from deployment.signal_stack import Stack, current, kept_signal_stack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sigaltstack(2) is asked on Linux alone")


def seen() -> tuple:
    stack = current()
    return stack.ss_sp, stack.ss_flags, stack.ss_size


@pytest.fixture
def restored():
    before = current()
    yield
    ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)


def test_the_stack_of_signal_handlers_comes_back(restored):
    before, room = seen(), ctypes.create_string_buffer(1 << 16)
    with kept_signal_stack():
        other = Stack(ctypes.addressof(room), 0, len(room))
        assert ctypes.CDLL(None).sigaltstack(ctypes.byref(other), None) == 0
        assert seen() == (ctypes.addressof(room), 0, len(room))
    assert seen() == before


@pytest.mark.parametrize("action", ["compile", "ask for bf16"])
def test_a_handler_runs_after_openvino_has_loaded_its_plugin(action):
    pytest.importorskip("openvino", reason="the export extra is not installed")
    script = f"""
import signal
import openvino as ov, openvino.opset13 as ops
from deployment.signal_stack import kept_signal_stack
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
model = ov.Model([ops.relu(x := ops.parameter([1, 3]))], [x])
from deployment.formats.openvino import _has_bf16
if "{action}" == "compile":
    with kept_signal_stack():
        ov.Core().compile_model(model, "CPU")
else:
    _has_bf16(ov.Core())
signal.raise_signal(signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "handled"), done.stderr
