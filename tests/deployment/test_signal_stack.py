"""The alternate signal stack is restored after a library has replaced it."""

import ctypes
import subprocess
import sys

import pytest

from deployment.signal_stack import SignalStack, current, restore_signal_stack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sigaltstack(2) is called on Linux only")


def fields_of_current() -> tuple:
    stack = current()
    return stack.ss_sp, stack.ss_flags, stack.ss_size


@pytest.fixture
def restored():
    before = current()
    yield
    ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)


def test_kept_signal_stack_restores_the_stack(restored):
    before, memory = fields_of_current(), ctypes.create_string_buffer(1 << 16)
    with restore_signal_stack():
        other = SignalStack(ctypes.addressof(memory), 0, len(memory))
        assert ctypes.CDLL(None).sigaltstack(ctypes.byref(other), None) == 0
        assert fields_of_current() == (ctypes.addressof(memory), 0, len(memory))
    assert fields_of_current() == before


@pytest.mark.parametrize("action", ["compile a model", "query bf16"])
def test_signal_handler_runs_after_openvino_has_loaded_its_cpu_plugin(action):
    pytest.importorskip("openvino", reason="the export extra is not installed")
    script = f"""
import signal
import openvino as ov, openvino.opset13 as ops
from deployment.formats.openvino import _has_bf16
from deployment.signal_stack import restore_signal_stack
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
model = ov.Model([ops.relu(x := ops.parameter([1, 3]))], [x])
if "{action}" == "compile a model":
    with restore_signal_stack():
        ov.Core().compile_model(model, "CPU")
else:
    _has_bf16(ov.Core())
signal.raise_signal(signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "handled"), done.stderr
