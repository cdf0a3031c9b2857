"""Parallel coordinates of settings: one axis a setting that varies, then the results, one line a run."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reports.html.charts import Axis, axis
from reports.ranking import axes as compared_axes
from reports.results import Row, one_line, overrides

AXES = 10  # settings with an axis, those with the most values
MOST_VALUES = 7  # of a setting that are marked one by one


def parallel_chart(
    rows: Sequence[Row], entries: Sequence[Mapping[str, Any]], width: int = 1180, height: int = 330
) -> dict[str, Any] | None:
    """Layout of the chart; None with fewer than three rows or without a setting that varies.

    Args:
        rows: Completed rows.
        entries: `name`, `find` and `run` of each row.
        width: In pixels.
        height: In pixels.

    Returns:
        width, height; axes: title, x, and ticks (text, y); lines: the entries with `points` (SVG) and `shade`, the
        macro F1 between the lowest (0) and the highest (1); top and bottom.
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
        scales.append(_measure(times, top, bottom))  # fast is up
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
    """Values of the overrides that differ between rows, the seed aside; None where a row has no such override."""
    given = [dict(item.split("=", 1) for item in overrides(row) if "=" in item) for row in rows]
    keys = dict.fromkeys(key for items in given for key in items if key != "seed")
    values = {key: [items.get(key) for items in given] for key in keys}
    varying = {key: found for key, found in values.items() if len(set(found)) > 1}
    kept = sorted(varying, key=lambda key: -len(set(varying[key])))[:AXES]
    return {key: varying[key] for key in keys if key in kept}


def _scale(given: Sequence[str | None], start: float, end: float) -> tuple[list[float | None], list[Any]]:
    """Position of each value, and ticks: numbers on a scale, anything else evenly spaced."""
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
    ticks = [(f"{value:.4g}", scale(value)) for value in known] if len(known) <= MOST_VALUES else scale.ticks
    return [scale(value) if math.isfinite(value) else None for value in values], ticks


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
