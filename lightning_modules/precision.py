"""Which floating-point precision a machine can train in, fast and right."""

import logging
import platform

import torch

from litesort.errors import ModelError

log = logging.getLogger(__name__)

_ALIASES = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}
_KNOWN = ("16-mixed", "bf16-mixed", "32-true", "16-true", "bf16-true")
_said: set[str] = set()


def supported_precision(precision: str | int, accelerator: str = "auto") -> str:
    """The precision to train in: the asked one where it is fast and right, else the nearest that is, said once.

    precision: a Lightning name ("16-mixed", "bf16-mixed", "32-true", ...) or its short form (16, "bf16", 32);
    accelerator: Lightning's ("auto", "cpu", "gpu", "cuda", "mps"). Without CUDA the half precisions become "32-true":
    Lightning itself would turn 16-mixed into bf16-mixed there, 11 to 21 times slower on a CPU without bf16 units.
    CUDA without bf16 units turns bf16-mixed into 16-mixed. ModelError for an unknown name, and for 64-true.
    """
    wanted = _ALIASES.get(str(precision), str(precision))
    if wanted == "64-true":
        raise ModelError(f"trainer.precision={precision} is not supported, since images are float32: give 32-true")
    if wanted not in _KNOWN:
        raise ModelError(f"trainer.precision={precision} is unknown: give one of {', '.join(_KNOWN)}")
    if wanted == "32-true":
        return wanted
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        if wanted.startswith("bf16") and not torch.cuda.is_bf16_supported(including_emulation=False):
            used = wanted.replace("bf16", "16")
            return _say(f"trainer.precision={wanted}: this GPU has no bf16 units, training in {used} instead", used)
        return wanted
    reason = "no CUDA here"
    if wanted == "bf16-mixed" and accelerator in ("auto", "cpu"):
        if _cpu_has_bf16():
            return wanted
        reason = "this CPU has no bf16 units"
    return _say(f"trainer.precision={wanted}: {reason}, training in 32-true instead", "32-true")


def _say(line: str, used: str) -> str:
    if line not in _said:
        _said.add(line)
        log.warning(line)
    return used


def _cpu_has_bf16() -> bool:
    """Whether the CPU has AMX or AVX512 units for bf16: without them oneDNN emulates it."""
    if not torch.backends.mkldnn.is_available():
        return False
    # private names of torch, which change with releases: a test compares the answer with /proc/cpuinfo
    if hasattr(torch.cpu, "_is_avx512_bf16_supported") and platform.machine() in ("x86_64", "AMD64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    # on x86 oneDNN's own answer is True for any AVX512
    return bool(getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)())
