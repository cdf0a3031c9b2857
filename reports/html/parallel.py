"""Parallel coordinates: one axis per varying setting, then axes of the results; one line per row."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reports.html.charts import Axis, axis
from reports.ranking import axes as compared_axes
from reports.results import Row, one_line, overrides

MAX_SETTINGS = 10  # settings with an axis: those with the most values
MAX_VALUES = 7  # up to this number, each value of a setting has its own tick


def parallel_chart(
    rows: Sequence[Row], entries: Sequence[Mapping[str, Any]], width: int = 1180, height: int = 330
) -> dict[str, Any] | None:
    """Lay out the chart.

    Args:
        rows: Completed rows.
        entries: `name`, `find` and `run` of each row.
        width: Width in pixels.
        height: Height in pixels.

    Returns:
        width, height, top, bottom: in pixels. axes: `title`, `x` and `ticks` (text, y) of each axis. lines: the entries
        with `points` (SVG) and `shade`, the macro F1 scaled from 0 (lowest) to 1 (highest). None with fewer than three
        rows, or if no setting varies.
    """
    compared = compared_axes(rows)
    chosen = [(row, entry) for row, entry in zip(rows, entries, strict=True) if math.isfinite(compared.point(row)[1])]
    settings = _varying([row for row, _ in chosen])
    if len(chosen) < 3 or not settings:
        return None
    times, scores = zip(*(compared.point(row) for row, _ in chosen), strict=True)
    top, bottom = 44.0, height - 16.0
    scales = [_scale(values, bottom, top) for values in settings.values()]
    if sum(map(math.isfinite, times)) > 1:
        settings |= {"ms" if compared.time == "latency_ms" else "time": list(times)}
        scales.append(_measure(times, top, bottom))  # the fastest row is at the top
    settings |= {"F1 val" if compared.f1 else "macro F1": list(scores)}
    scales.append(_measure(scores, bottom, top))
    step = (width - 140) / (len(settings) - 1)
    low, spread = min(scores), (max(scores) - min(scores)) or 1
    lines = []
    for i, (_, entry) in enumerate(chosen):
        places = [(70 + k * step, place[i]) for k, (place, _) in enumerate(scales) if place[i] is not None]
        points = " ".join(f"{x:.1f},{y}" for x, y in places)
        lines.append({**entry, "points": points, "shade": round((scores[i] - low) / spread, 3)})
    axes = [
        {"title": one_line(title, 26), "x": round(70 + k * step, 1), "ticks": ticks}
        for k, (title, (_, ticks)) in enumerate(zip(settings, scales, strict=True))
    ]
    return {"width": width, "height": height, "axes": axes, "lines": lines, "top": top, "bottom": bottom}


def _varying(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Return the values of overrides that differ between rows, except the seed; None where one is absent."""
    given = [dict(item.split("=", 1) for item in overrides(row) if "=" in item) for row in rows]
    keys = dict.fromkeys(key for items in given for key in items if key != "seed")
    values = {key: [items.get(key) for items in given] for key in keys}
    varying = {key: found for key, found in values.items() if len(set(found)) > 1}
    chosen = sorted(varying, key=lambda key: -len(set(varying[key])))[:MAX_SETTINGS]
    return {key: varying[key] for key in keys if key in chosen}


def _scale(given: Sequence[str | None], start: float, end: float) -> tuple[list[float | None], list[Any]]:
    """Return the position of each value, and ticks. Numbers are placed on a scale, other values evenly spaced."""
    numbers = [_number(value) for value in given]
    if all(math.isfinite(found) or value is None for found, value in zip(numbers, given, strict=True)):
        return _measure(numbers, start, end)
    values = ["not set" if value is None else value for value in given]
    names = sorted(set(values))
    step = (end - start) / max(len(names) - 1, 1)
    places = {name: round(start + i * step if len(names) > 1 else (start + end) / 2, 1) for i, name in enumerate(names)}
    ticks = [(one_line(name, 16), place) for name, place in places.items()]
    return [places[value] for value in values], ticks[:: max(1, len(ticks) // 12)]


def _measure(values: Sequence[float], start: float, end: float) -> tuple[list[float | None], list[Any]]:
    scale: Axis = axis(values, start, end, log=True, margin=0.0)
    known = sorted({value for value in values if math.isfinite(value)})
    ticks = [(f"{value:.4g}", scale(value)) for value in known] if len(known) <= MAX_VALUES else scale.ticks
    return [scale(value) if math.isfinite(value) else None for value in values], ticks


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
