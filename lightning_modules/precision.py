"""Select the floating-point precision of a training that the device supports."""

import logging
import platform

import torch

from litesort.errors import ModelError

log = logging.getLogger(__name__)

_ALIASES = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}
_KNOWN = ("16-mixed", "bf16-mixed", "32-true", "16-true", "bf16-true")
_logged: set[str] = set()


def supported_precision(precision: str | int, accelerator: str = "auto") -> str:
    """Return the requested precision, or the closest one that is fast and correct on the device.

    Without CUDA, half precision becomes "32-true". Lightning would replace 16-mixed by bf16-mixed, which is 11 to 21
    times slower on a CPU without bf16 units. On CUDA without bf16 units, bf16 becomes 16. Each change is logged once.

    Args:
        precision: Name in Lightning ("16-mixed", "bf16-mixed", "32-true", ...) or its short form (16, "bf16", 32).
        accelerator: Name in Lightning: "auto", "cpu", "gpu", "cuda" or "mps".

    Returns:
        Name of the precision in Lightning.

    Raises:
        ModelError: The name is unknown, or is 64-true.
    """
    wanted = _ALIASES.get(str(precision), str(precision))
    if wanted == "64-true":
        raise ModelError(f"trainer.precision={precision} is not supported, because images are float32: give 32-true")
    if wanted not in _KNOWN:
        raise ModelError(f"trainer.precision={precision} is unknown: give one of {', '.join(_KNOWN)}")
    if wanted == "32-true":
        return wanted
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        if wanted.startswith("bf16") and not torch.cuda.is_bf16_supported(including_emulation=False):
            used = wanted.replace("bf16", "16")
            return _log_once(
                f"trainer.precision={wanted}: this GPU has no bf16 units, training in {used} instead", used
            )
        return wanted
    reason = "CUDA is not available"
    if wanted == "bf16-mixed" and accelerator in ("auto", "cpu"):
        if _cpu_has_bf16():
            return wanted
        reason = "this CPU has no bf16 units"
    return _log_once(f"trainer.precision={wanted}: {reason}, training in 32-true instead", "32-true")


def _log_once(line: str, used: str) -> str:
    if line not in _logged:
        _logged.add(line)
        log.warning(line)
    return used


def _cpu_has_bf16() -> bool:
    """Return whether the CPU has AMX or AVX512 units for bf16. Without them oneDNN emulates bf16."""
    if not torch.backends.mkldnn.is_available():
        return False
    # private functions of torch, which may change: a test compares the result with /proc/cpuinfo
    if hasattr(torch.cpu, "_is_avx512_bf16_supported") and platform.machine() in ("x86_64", "AMD64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    # on x86 this function returns True for any AVX512
    return bool(getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)())
