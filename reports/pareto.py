"""Pareto front of cost and value, and the layout that both Pareto charts share (PNG and SVG)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

Point = tuple[float, float]

LOG_RANGE = 8  # largest cost over smallest above which the cost axis is logarithmic
MAX_NAMED = 20  # points; in a larger chart only the points of the front have a label
MARGIN = 4  # half the side of the square that a point's marker covers
# Places for a label: offset from its point (right, up) and whether a line joins the two; the best place first.
PLACES = (
    *((right, up, False) for right, up in ((-5, 4), (5, -4), (0, 6), (0, -6), (5, 4), (-5, -4))),
    *((right, up, True) for far in (18, 32, 48) for right, up in ((-far, far), (far, -far), (-far, -far), (far, far))),
)


class Box(NamedTuple):
    """A rectangle with y pointing up."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: "Box") -> bool:
        """Return True if the two rectangles share an area."""
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )

    def contains(self, other: "Box") -> bool:
        """Return True if `other` lies inside."""
        return (
            self.left <= other.left
            and self.bottom <= other.bottom
            and other.right <= self.right
            and other.top <= self.top
        )


class Label(NamedTuple):
    """Place of a label.

    Attributes:
        box: Area of the text.
        right: Horizontal offset of the text's anchor from the point, in pixels. The text extends away from the point;
            with 0 it is centred.
        up: Vertical offset of the anchor, in pixels.
        line: Whether a line joins label and point.
    """

    box: Box
    right: float
    up: float
    line: bool


def front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Return the positions of the points that no other point dominates.

    A point dominates another one if it is at least as cheap and at least as good, and better in one of the two.

    Args:
        costs: (N,) lower is better, e.g. milliseconds. A point with NaN is not on the front.
        values: (N,) higher is better, e.g. macro F1. A point with NaN is not on the front.

    Returns:
        Positions in order of increasing cost. Equal points are neighbours.

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


def drawable(points: Sequence[Mapping[str, float]]) -> list[int]:
    """Return the positions of the points that a chart can show: `cost` finite and above 0, `value` finite."""
    return [
        i
        for i, point in enumerate(points)
        if math.isfinite(point["cost"]) and point["cost"] > 0 and math.isfinite(point["value"])
    ]


def needs_log(costs: Sequence[float]) -> bool:
    """Return True if costs span a range that a linear axis cannot show."""
    return bool(costs) and max(costs) > LOG_RANGE * min(costs)


def stairs(corners: Sequence[Point]) -> list[Point]:
    """Return the outline of the front. Between two points it has the value of the cheaper one.

    Args:
        corners: Points of the front, in order of increasing cost.

    Example:
        >>> stairs([(0, 0), (2, 1)])
        [(0, 0), (2, 0), (2, 1)]
    """
    return [*corners[:1], *(step for (_, low), (x, y) in pairwise(corners) for step in ((x, low), (x, y)))]


def place_labels(
    spots: Sequence[Point], sizes: Sequence[Point], best: Sequence[int], room: Box, unit: float = 1.0
) -> Iterator[tuple[int, Label]]:
    """Place labels beside their points so that they cover no point, no step of the front and no other label.

    The front is labelled first, then, in a chart of at most 20 points, all others. A label that does not fit
    next to its point is placed further away, with a line. A label that fits nowhere is left out.

    Args:
        spots: (N,) points in pixels, y pointing up.
        sizes: (N,) width and height of the labels in pixels.
        best: Positions of the front, in order of increasing cost.
        room: Area for the labels.
        unit: Pixels per unit of `PLACES`.

    Yields:
        Position and place of each label.
    """
    margin = MARGIN * unit
    taken = [Box(x - margin, y - margin, x + margin, y + margin) for x, y in spots]
    for (x, y), (to_x, to_y) in pairwise(stairs([spots[i] for i in best])):
        taken.append(Box(min(x, to_x) - 1, min(y, to_y) - 1, max(x, to_x) + 1, max(y, to_y) + 1))
    others = [i for i in range(len(spots)) if i not in set(best)] if len(spots) <= MAX_NAMED else []
    for i in [*best, *others]:
        for right, up, line in PLACES:
            box = _box(spots[i], sizes[i], right * unit, up * unit)
            if room.contains(box) and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                yield i, Label(box, right * unit, up * unit, line)
                break


def _box(spot: Point, size: Point, right: float, up: float) -> Box:
    (x, y), (width, height) = spot, size
    left = x + right - (0 if right > 0 else width if right < 0 else width / 2)
    bottom = y + up - (0 if up > 0 else height)
    return Box(left, bottom, left + width, bottom + height)
