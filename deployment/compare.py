"""How much time one net takes of another's, as it runs here or as it ships."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import nn

from deployment import DeploymentError
from deployment.formats import FORMATS, get_format
from deployment.latency import Contender, model_clock, predictor_contender, torch_contender
from deployment.stopwatch import Settings


class Times(NamedTuple):
    """Time of one photo through a net and through its yardstick.

    Attributes:
        ratio: Median over the rounds of the net's by the yardstick's, below 1 where the net is faster.
        net, yardstick: Medians, ms.
    """

    ratio: float
    net: float
    yardstick: float


Clock = Callable[[nn.Module, nn.Module, int], Times]
EAGER = "eager"


def clock_in(runtime: str) -> Clock:
    """What takes a net, another of the same classes and their photos' side, and times one photo through both, in turn.

    Args:
        runtime: A format, e.g. "openvino": both nets are exported and timed in it; "eager": timed as they are.

    Raises:
        DeploymentError: An unknown runtime, or one whose packages are missing.
    """
    if runtime == EAGER:
        return time_eager
    if runtime not in FORMATS:
        raise DeploymentError(f"prune.runtime={runtime} is unknown: give one of {', '.join([*FORMATS, EAGER])}")
    get_format(runtime).check_packages("fp32")

    def clock(net: nn.Module, yardstick: nn.Module, size: int) -> Times:
        with tempfile.TemporaryDirectory() as room:
            nets = {"net": net, "yardstick": yardstick}
            return _times({name: _shipped(part, Path(room) / name, runtime, size) for name, part in nets.items()})

    return clock


def time_eager(net: nn.Module, yardstick: nn.Module, size: int, settings: Settings | None = None) -> Times:
    """Time one photo through `net` and through `yardstick`, both eager, where they are, in turn.

    Args:
        net: (B, 3, size, size) float in [0, 1] -> logits (B, C).
        yardstick: The same, of the net that is compared to.
        size: Side of the photo, px.
        settings: Length of the measurement; None is a second at most.
    """
    return _times({"net": torch_contender(net, size), "yardstick": torch_contender(yardstick, size)}, settings)


def _shipped(net: nn.Module, stem: Path, runtime: str, size: int) -> Contender:
    """A net as a file in its runtime; class names and training, which cost no time, are left out of it."""
    classes = [str(number) for number in range(int(net.num_classes))]  # type: ignore[arg-type]
    square = {"size": size, "resize": "pad", "mean": [0.0] * 3, "std": [1.0] * 3}
    model = {"name": "network", "num_classes": len(classes), "kwargs": {}}
    card = {"classes": classes, "preprocessing": square, "config": {}, "model": model, "versions": {}}
    one = FORMATS[runtime]
    return predictor_contender(one.load(one.write(net, stem.with_name(f"{stem.name}{one.suffix}"), card)), size)


def _times(contenders: dict[str, Contender], settings: Settings | None = None) -> Times:
    quick = settings or Settings(seconds=1.0, min_rounds=15, max_rounds=200)
    (record,) = model_clock(contenders, reference="yardstick", batches=[1], settings=quick)
    entries = record["entries"]
    return Times(entries["net"]["ratio"], entries["net"]["median_ms"], entries["yardstick"]["median_ms"])
