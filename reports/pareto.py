"""Which of many are not beaten on both counts."""

from collections.abc import Sequence


def front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Positions of the points that no other beats: cheaper or as cheap, better or as good, and one of both strictly.

    Args:
        costs: (N,) lower is better, e.g. milliseconds; a point with NaN is on no front.
        values: (N,) higher is better, e.g. macro F1.

    Returns:
        Positions by rising cost; equal points stand together.

    Example:
        >>> front([1.0, 2.0, 3.0], [0.5, 0.4, 0.9])
        [0, 2]
    """
    finite = [i for i, (cost, value) in enumerate(zip(costs, values, strict=True)) if cost == cost and value == value]
    chosen: list[int] = []
    for i in sorted(finite, key=lambda i: (costs[i], -values[i], i)):
        last = chosen[-1] if chosen else None
        if last is None or values[i] > values[last] or (costs[i], values[i]) == (costs[last], values[last]):
            chosen.append(i)
    return chosen
