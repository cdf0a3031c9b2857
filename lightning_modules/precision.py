"""Choose the floating-point precision of a training: as configured, or the fastest one by measurement."""

import copy
import hashlib
import json
import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from litesort.errors import ModelError
from litesort.io import write_json
from litesort.system import describe_machine, versions

log = logging.getLogger(__name__)

FP32, BF16, FP16 = "32-true", "bf16-mixed", "16-mixed"
_ALIASES = {"16": FP16, "bf16": BF16, "32": FP32, "64": "64-true"}
_KNOWN = ("auto", FP16, BF16, FP32, "16-true", "bf16-true")
MIN_STEPS = 100  # a training of fewer steps is too short for a measurement
MIN_SPEEDUP = 1.1  # bf16 must be this much faster, because it rounds
SECONDS = 4.0  # time of a measurement, unless MIN_ROUNDS take longer
ROUNDS = 5  # timed steps in each precision, if the time allows
MIN_ROUNDS = 3  # least number of timed steps; a single one may fall into a busy moment of the machine
STEADY = 1.25  # the median step may take this much longer than the shortest; else the measurement is not stored
_logged: set[str] = set()

Step = Callable[[nn.Module, Tensor], None]  # a step of a network on images (B, 3, H, W) in [0, 1]


@dataclass(frozen=True)
class Precision:
    """Precision of a training.

    Attributes:
        name: Name in Lightning.
        step_ms: Measured ms of a training step in each precision; empty if nothing was measured.
    """

    name: str
    step_ms: Mapping[str, float]


class StepTimes(NamedTuple):
    """Measured times of a training step.

    Attributes:
        ms: Precision -> shortest time of a step, ms, for the whole batch.
        steady: Whether the steps of each precision took similar times.
    """

    ms: dict[str, float]
    steady: bool


def choose_precision(
    precision: str | int,
    accelerator: str,
    net: nn.Module,
    step: Step,
    shape: Sequence[int],
    *,
    steps: float,
    processes: bool = False,
    cache_dir: Path | None = None,
) -> Precision:
    """Choose the precision of a training.

    On CUDA, "auto" is 16-mixed. On a CPU with bf16 units, "auto" and 16-mixed are the faster one of 32-true and
    bf16-mixed by measurement, because the speed of bf16 depends on network, image size and batch. On other devices,
    "auto" is 32-true. `supported_precision` handles all other names.

    Args:
        precision: "auto", a name in Lightning ("16-mixed", "bf16-mixed", "32-true", ...) or its short form.
        accelerator: Name in Lightning: "auto", "cpu", "gpu", "cuda" or "mps".
        net: Network of the training. It is not changed.
        step: A training step.
        shape: Shape of a batch of images, (B, 3, H, W).
        steps: Number of steps of the training.
        processes: Whether several processes train. They must agree, so nothing is measured.
        cache_dir: Folder that keeps measurements of this network, shape and machine; None measures again.

    Raises:
        ModelError: The name is unknown, or is 64-true.
    """
    wanted = _canonical(precision)
    if wanted not in ("auto", FP16) or device_type(accelerator) != "cpu" or not _cpu_has_bf16():
        return Precision(supported_precision(precision, accelerator), {})
    if processes or steps < MIN_STEPS:
        reason = "several processes train" if processes else f"{steps:g} steps are too few to measure"
        return Precision(_log_once(f"trainer.precision={wanted}: {reason}, training in {FP32}", FP32), {})
    chosen = faster_on_cpu(net, step, shape, cache_dir)
    times = chosen.step_ms
    log.info(
        "trainer.precision=%s: a step takes %.0f ms in %s and %.0f ms in %s (%.2f times as fast), training in %s",
        *(wanted, times[FP32], FP32, times[BF16], BF16, times[FP32] / times[BF16], chosen.name),
    )
    return chosen


def faster_on_cpu(net: nn.Module, step: Step, shape: Sequence[int], cache_dir: Path | None = None) -> Precision:
    """Measure a step on the CPU in 32-true and bf16-mixed, and return the faster precision.

    On a CPU without bf16 units, the function returns 32-true without a measurement.

    Args:
        net: Network. It is not changed.
        step: A step of the network: a training step, or a forward pass.
        shape: Shape of a batch of images, (B, 3, H, W).
        cache_dir: Folder that keeps measurements of this network, shape and machine; None measures again.
    """
    if not _cpu_has_bf16():
        return Precision(FP32, {})
    times = _measured(net, step, shape, cache_dir)
    return Precision(BF16 if times[FP32] / times[BF16] >= MIN_SPEEDUP else FP32, times)


def supported_precision(precision: str | int, accelerator: str = "auto") -> str:
    """Return the requested precision, or the closest one that is fast and correct on the device.

    Without CUDA, half precision becomes 32-true, except bf16-mixed on a CPU with bf16 units. Lightning would replace
    16-mixed by bf16-mixed, which is 11 to 21 times slower on a CPU without bf16 units. On CUDA without bf16 units, bf16
    becomes 16. Each change is logged once. Lightning has no mixed precision on MPS (Lightning issue 20497).

    Args:
        precision: Name in Lightning ("16-mixed", "bf16-mixed", "32-true", ...), its short form (16, "bf16", 32) or
            "auto": 16-mixed on CUDA, otherwise 32-true.
        accelerator: Name in Lightning: "auto", "cpu", "gpu", "cuda" or "mps".

    Returns:
        Name of the precision in Lightning.

    Raises:
        ModelError: The name is unknown, or is 64-true.
    """
    wanted, device = _canonical(precision), device_type(accelerator)
    if wanted == "auto":
        return FP16 if device == "cuda" else FP32
    if wanted == FP32:
        return wanted
    if device == "cuda":
        if wanted.startswith("bf16") and not torch.cuda.is_bf16_supported(including_emulation=False):
            used = wanted.replace("bf16", "16")
            return _log_once(
                f"trainer.precision={wanted}: this GPU has no bf16 units, training in {used} instead", used
            )
        return wanted
    reason = "CUDA is not available"
    if wanted == BF16 and device == "cpu":
        if _cpu_has_bf16():
            return wanted
        reason = "this CPU has no bf16 units"
    return _log_once(f"trainer.precision={wanted}: {reason}, training in {FP32} instead", FP32)


def device_type(accelerator: str) -> str:
    """Return the kind of device, "cuda", "mps" or "cpu", that an accelerator of Lightning selects."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "cuda"
    mps = accelerator == "mps" or (accelerator in ("auto", "gpu") and torch.backends.mps.is_available())
    return "mps" if mps else "cpu"


def measure_steps(net: nn.Module, step: Step, shape: Sequence[int], seconds: float = SECONDS) -> StepTimes:
    """Time training steps of a copy of a network in fp32 and bf16, in turn, on the CPU.

    If a step of the whole batch is too long, a part of the batch is timed. Random numbers of the training do not
    change.

    Args:
        net: Network. It is not changed.
        step: A training step.
        shape: Shape of a batch, (B, 3, H, W).
        seconds: Time to spend, unless `MIN_ROUNDS` take longer.
    """
    start = time.perf_counter()
    net = copy.deepcopy(net)
    images = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    times: dict[str, list[float]] = {FP32: [], BF16: []}
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        first = images[:4]
        estimate = max(_seconds(step, net, first, name) for name in times) * len(images) / len(first)
        part = images[: max(2, min(len(images), int(len(images) * seconds / 8 / max(estimate, 1e-6))))]
        for name in times:
            _seconds(step, net, part, name)  # oneDNN prepares each shape in its first step
        while len(times[BF16]) < MIN_ROUNDS or (len(times[BF16]) < ROUNDS and time.perf_counter() - start < seconds):
            for name, taken in times.items():
                taken.append(_seconds(step, net, part, name))
    ms = {name: min(taken) * 1e3 * len(images) / len(part) for name, taken in times.items()}
    return StepTimes(ms, all(median(taken) <= STEADY * min(taken) for taken in times.values()))


def _seconds(step: Step, net: nn.Module, images: Tensor, precision: str) -> float:
    # Lightning does not cache the cast weights either.
    bf16 = torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False)
    start = time.perf_counter()
    with bf16 if precision == BF16 else nullcontext():
        step(net, images)
    return time.perf_counter() - start


def _measured(net: nn.Module, step: Step, shape: Sequence[int], cache_dir: Path | None) -> dict[str, float]:
    """Measure, or read an earlier measurement of the same network, shape and machine."""
    if cache_dir is None:
        return measure_steps(net, step, shape).ms
    conditions = {
        "network": getattr(net, "name", type(net).__name__),
        "weights": [[name, list(value.shape)] for name, value in net.state_dict().items()],
        "step": getattr(step, "__qualname__", ""),
        "shape": list(shape),
        "machine": [platform.node(), describe_machine()["cpu"], torch.get_num_threads()],
        "torch": versions().get("torch"),
    }
    key = hashlib.sha256(json.dumps(conditions).encode()).hexdigest()[:16]
    file = cache_dir / "precision" / f"{key}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored: dict[str, Any] = json.loads(file.read_text())["step_ms"]
        return {name: float(stored[name]) for name in (FP32, BF16)}
    times = measure_steps(net, step, shape)
    del conditions["weights"]
    if times.steady:
        with suppress(OSError):  # without a writable folder, each run measures again
            write_json(file, {**conditions, "step_ms": times.ms})
    return times.ms


def _canonical(precision: str | int) -> str:
    name = _ALIASES.get(str(precision), str(precision))
    if name == "64-true":
        raise ModelError(f"trainer.precision={precision} is not supported, because images are float32: give 32-true")
    if name not in _KNOWN:
        raise ModelError(f"trainer.precision={precision} is unknown: give one of {', '.join(_KNOWN)}")
    return name


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
