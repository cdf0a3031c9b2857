"""Geometry of charts: numbers in, coordinates and ticks of an SVG out; no markup."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.ticker import LogLocator, MaxNLocator

from reports.pareto import front

Point = tuple[float, float]


class Axis(NamedTuple):
    """A scale from values to pixels.

    Attributes:
        low: Value at `start`.
        high: Value at `end`.
        start: Pixel.
        end: Pixel.
        log: Logarithmic.
        ticks: (text, pixel) each.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: list[tuple[str, float]]

    def __call__(self, value: float) -> float:
        """Pixel of a value, with one digit behind the point."""
        return round(_place(value, self.low, self.high, self.log) * (self.end - self.start) + self.start, 1)


def axis(values: Sequence[float], start: float, end: float, *, log: bool = False, margin: float = 0.06) -> Axis:
    """Scale that holds all finite values, with a margin and at most seven ticks."""
    finite = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [0.1, 1.0]
    low, high = min(finite), max(finite)
    log = log and high > 8 * low
    if log:
        spread = (high / low) ** margin
        low, high = low / spread, high * spread
        ticks = LogLocator(subs=(1, 2, 5), numticks=9).tick_values(low, high)
    else:
        spread = (high - low) * margin or abs(high) * 0.1 or 1.0
        low, high = low - spread, high + spread
        ticks = MaxNLocator(6).tick_values(low, high)
    shown = [float(tick) for tick in ticks if low <= tick <= high]
    where = [_place(tick, low, high, log) * (end - start) + start for tick in shown]
    return Axis(low, high, start, end, log, [(f"{t:.6g}", round(x, 1)) for t, x in zip(shown, where, strict=True)])


def pareto_chart(points: Sequence[Mapping[str, Any]], width: int = 760, height: int = 420) -> dict[str, Any] | None:
    """Macro F1 against latency: axes, points, the steps of the front, and names where they have room.

    Args:
        points: Each with `cost` (ms, above 0), `value` (macro F1), `name`, and whatever else; a point without finite
            numbers is left out.
        width: In pixels.
        height: In pixels.

    Returns:
        width, height, x, y (axes), line (SVG points), points: the given ones with x, y, best and `label`; or None.
    """
    points = [p for p in points if math.isfinite(p["cost"]) and p["cost"] > 0 and math.isfinite(p["value"])]
    if not points:
        return None
    best = front([p["cost"] for p in points], [p["value"] for p in points])
    left = 84  # room for the labels of the other axis, as large as a phone has them
    x = axis([p["cost"] for p in points], left, width - 24, log=True)
    y = axis([p["value"] for p in points], height - 52, 20)
    placed = [{**p, "x": x(p["cost"]), "y": y(p["value"]), "best": i in set(best)} for i, p in enumerate(points)]
    corners: list[str] = []
    for before, i in zip([None, *best[:-1]], best, strict=True):
        if before is not None:  # the front is a stair: until the next point, nothing is better than the last
            corners.append(f"{placed[i]['x']},{placed[before]['y']}")
        corners.append(f"{placed[i]['x']},{placed[i]['y']}")
    _name(placed, width)
    return {"width": width, "height": height, "x": x, "y": y, "line": " ".join(corners), "points": placed}


def curve_chart(
    curves: Mapping[int, Sequence[Point]], width: int = 560, height: int = 300, log: bool = False
) -> dict[str, Any] | None:
    """Curves over epochs; as in `pareto_chart`, `lines` maps the given keys to SVG points; None without a curve."""
    drawn = {key: points for key, points in curves.items() if points}
    if not drawn:
        return None
    left = 80  # room for the labels of the other axis, as large as a phone has them
    x = axis([px for points in drawn.values() for px, _ in points], left, width - 12, margin=0.01)
    y = axis([py for points in drawn.values() for _, py in points], height - 44, 14, log=log)
    lines = {key: " ".join(f"{x(px)},{y(py)}" for px, py in points) for key, points in drawn.items()}
    return {"width": width, "height": height, "x": x, "y": y, "lines": lines}


def _name(placed: Sequence[dict[str, Any]], width: int) -> None:
    """Put names on the upper left of front points, or lower right, unless they would cover one that is there."""
    crowded = len(placed) > 20  # then the lower right belongs to the marks of those that are beaten
    taken: list[tuple[float, float, float, float]] = []
    for point in sorted(placed, key=lambda p: (not p["best"], p["x"])):
        if not point["best"] and crowded:
            continue
        wide = 6.6 * len(point["name"])
        choices = [("end", point["x"] - 8, point["y"] - 8), ("start", point["x"] + 9, point["y"] + 14)]
        for anchor, x, y in choices[: 1 if crowded else 2]:
            left = x - wide if anchor == "end" else x
            box = (left, y - 10, left + wide, y + 3)
            inside = box[0] > 80 and box[2] < width - 4
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                point["label"] = {"anchor": anchor, "x": round(x, 1), "y": round(y, 1)}
                break


def _overlap(one: tuple[float, float, float, float], two: tuple[float, float, float, float]) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def _place(value: float, low: float, high: float, log: bool) -> float:
    if log:
        return math.log(max(value, low * 1e-3) / low) / math.log(high / low)
    return (value - low) / (high - low)
