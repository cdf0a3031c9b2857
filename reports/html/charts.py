"""Layout of charts: coordinates and ticks for SVG, without markup.

Charts are laid out at about the width at which the page shows them, so that their text has the size of the style sheet.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.ticker import LogLocator, MaxNLocator

from reports.pareto import LOG_RANGE, Box, Point, drawable, front, place_labels, stairs
from reports.results import one_line

LETTER, LINE = 6.6, 13.0  # width of a letter and height of a line of a label, in pixels
DESCENT_SHIFT = -3.0  # baseline of a label, in pixels above the bottom of its box
LEFT, BELOW = 58, 44  # room for the tick labels of a panel, in pixels
UNIT = 1.5  # pixels per unit of `reports.pareto.PLACES`


class Axis(NamedTuple):
    """Scale from values to pixels.

    Attributes:
        low: Value at `start`.
        high: Value at `end`.
        start: Position of `low` in pixels.
        end: Position of `high` in pixels.
        log: Whether the scale is logarithmic.
        ticks: Text and position of each tick.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: list[tuple[str, float]]

    def __call__(self, value: float) -> float:
        """Return the position of a value in pixels, rounded to one decimal."""
        return round(_relative_position(value, self.low, self.high, self.log) * (self.end - self.start) + self.start, 1)


def axis(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    log: bool = False,
    margin: float = 0.06,
    whole: bool = False,
) -> Axis:
    """Return a scale that covers all finite values and a margin, with at most seven ticks.

    Args:
        values: Values to cover. A logarithmic scale ignores values that are not above 0.
        start: Position of the lowest value in pixels.
        end: Position of the highest value in pixels.
        log: Use a logarithmic scale if the values span a wide range; see `reports.pareto.LOG_RANGE`.
        margin: Margin at both ends, as a share of the range.
        whole: Place ticks at integers only.
    """
    finite = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [0.1, 1.0]
    low, high = min(finite), max(finite)
    log = log and high > LOG_RANGE * low
    if log:
        spread = (high / low) ** margin
        low, high = low / spread, high * spread
        ticks = LogLocator(subs=(1, 2, 5), numticks=9).tick_values(low, high)
    else:
        spread = (high - low) * margin or abs(high) * 0.1 or 1.0
        low, high = low - spread, high + spread
        ticks = MaxNLocator(6, integer=whole).tick_values(low, high)
    shown = [float(tick) for tick in ticks if low <= tick <= high]
    where = [_relative_position(tick, low, high, log) * (end - start) + start for tick in shown]
    return Axis(low, high, start, end, log, [(f"{t:.6g}", round(x, 1)) for t, x in zip(shown, where, strict=True)])


def pareto_chart(
    points: Sequence[Mapping[str, Any]],
    width: int = 760,
    height: int = 420,
    longest: int = 40,
    front_only: bool = False,
) -> dict[str, Any] | None:
    """Lay out macro F1 against time: axes, points, outline of the front, and the labels that fit.

    Args:
        points: Each has `cost` (time, above 0), `value` (macro F1), `short` (name) and any other keys. A point without
            finite numbers is left out.
        width: Width in pixels.
        height: Height in pixels.
        longest: Largest number of characters of a label.
        front_only: Whether only points of the front have a label.

    Returns:
        `width`, `height`, `x`, `y` (axes), `line` (SVG points) and `points`: the given points with `x`, `y`, `best`
        and, where it fits, `label` (text, x, y, anchor, line). None without a point.
    """
    points = [points[i] for i in drawable(points)]
    if not points:
        return None
    best = front([p["cost"] for p in points], [p["value"] for p in points])
    left = 56  # room for the tick labels
    x = axis([p["cost"] for p in points], left, width - 24, log=True)
    y = axis([p["value"] for p in points], height - 48, 20)
    placed = [{**p, "x": x(p["cost"]), "y": y(p["value"]), "best": i in set(best)} for i, p in enumerate(points)]
    line = " ".join(f"{px},{py}" for px, py in stairs([(placed[i]["x"], placed[i]["y"]) for i in best]))
    spots = [(p["x"], -p["y"]) for p in placed]  # y points down in SVG
    names = [one_line(p["short"], longest) for p in placed]
    sizes = [(LETTER * len(name), LINE) for name in names]
    room = Box(left, 48 - height, width - 4, -16)  # below the title of the axis
    for i, label in place_labels(spots, sizes, best, room, UNIT):
        if front_only and i not in best:
            continue
        anchor = "start" if label.right > 0 else "end" if label.right < 0 else "middle"
        placed[i]["label"] = {
            "text": names[i],
            "anchor": anchor,
            "x": round(placed[i]["x"] + label.right, 1),
            "y": round(DESCENT_SHIFT - label.box.bottom, 1),
            "line": label.line,
        }
    return {"width": width, "height": height, "x": x, "y": y, "line": line, "points": placed}


def curve_chart(
    curves: Mapping[int, Sequence[Point]], width: int = 400, height: int = 260, log: bool = False
) -> dict[str, Any] | None:
    """Lay out curves over epochs.

    Args:
        curves: Points (epoch, value) by key.
        width: Width in pixels.
        height: Height in pixels.
        log: Use a logarithmic y axis if the values span a wide range.

    Returns:
        `width`, `height`, `x`, `y` (axes) and `lines`, SVG points by key. None without a curve.
    """
    drawn = {key: points for key, points in curves.items() if points}
    if not drawn:
        return None
    x = axis([px for points in drawn.values() for px, _ in points], LEFT, width - 12, margin=0.01, whole=True)
    y = axis([py for points in drawn.values() for _, py in points], height - BELOW, 14, log=log)
    return _lines(drawn, x, y, width, height)


def share_chart(
    curves: Mapping[int, Sequence[Point]], low: float = 0.0, width: int = 340, height: int = 260
) -> dict[str, Any] | None:
    """Lay out curves whose x is in [0, 1] and whose y is in [`low`, 1].

    Args:
        curves: Points (x, y) by key.
        low: Lowest y, below 1.
        width: Width in pixels.
        height: Height in pixels.

    Returns:
        As `curve_chart`.
    """
    drawn = {key: points for key, points in curves.items() if points}
    if not drawn:
        return None
    x, y = fixed_axis(0, 1, LEFT, width - 12), fixed_axis(low, 1, height - BELOW, 14)
    return _lines(drawn, x, y, width, height)


def fixed_axis(low: float, high: float, start: float, end: float) -> Axis:
    """Return a linear scale from `low` to `high` with at most six ticks."""
    shown = [float(tick) for tick in MaxNLocator(5).tick_values(low, high) if low - 1e-9 <= tick <= high + 1e-9]
    scale = Axis(low, high, start, end, False, [])
    return scale._replace(ticks=[(f"{tick:.6g}", scale(tick)) for tick in shown])


def _lines(curves: Mapping[int, Sequence[Point]], x: Axis, y: Axis, width: int, height: int) -> dict[str, Any]:
    lines = {key: " ".join(f"{x(px)},{y(py)}" for px, py in points) for key, points in curves.items()}
    return {"width": width, "height": height, "x": x, "y": y, "lines": lines}


def _relative_position(value: float, low: float, high: float, log: bool) -> float:
    if log:
        return math.log(max(value, low * 1e-3) / low) / math.log(high / low)
    return (value - low) / (high - low)
