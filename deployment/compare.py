"""How much time one net takes of another's."""

from torch import nn

from deployment.latency import model_clock, torch_contender
from deployment.stopwatch import Settings


def latency_ratio(net: nn.Module, yardstick: nn.Module, size: int, settings: Settings | None = None) -> float:
    """Time of one photo through `net` by that through `yardstick`, both eager, where they are, in turn.

    Args:
        net: (B, 3, size, size) float in [0, 1] -> logits (B, C).
        yardstick: The same, of the net that is compared to.
        size: Side of the photo, px.
        settings: Length of the measurement; None is a second at most.

    Returns:
        The median ratio over the rounds, below 1 where `net` is faster.
    """
    contenders = {"net": torch_contender(net, size), "yardstick": torch_contender(yardstick, size)}
    quick = settings or Settings(seconds=1.0, min_rounds=7, max_rounds=100)
    (record,) = model_clock(contenders, reference="yardstick", batches=[1], settings=quick)
    return float(record["entries"]["net"]["ratio"])
