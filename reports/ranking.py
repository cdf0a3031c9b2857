"""Rank rows of runs and average the seeds of one setting; pure functions."""

import json
import math
import statistics
from collections.abc import Sequence

from litesort.io import plain
from reports.pareto import front
from reports.results import Row, f1_macro, failed, number, overrides

LARGEST = 1e150  # the square of a larger number overflows in the standard deviation


def rank(rows: Sequence[Row]) -> list[Row]:
    """Sort rows by score, lowest (best) first; failed rows come last.

    Rows of equal score share a rank and are ordered by macro F1, then latency. Completed rows without a finite score
    follow the others, by macro F1. The result does not depend on the order of the input.

    Returns:
        Copies with two more keys. `rank` is 1, 2, 2, 4, ..., or None without score and macro F1. `front` tells whether
        the row is on the Pareto front of macro F1 and time.
    """
    best = {id(row) for row in pareto_front(rows)}
    ranked: list[Row] = []
    for position, row in enumerate(sorted(rows, key=_order), start=1):
        place: int | None = None
        if not failed(row) and _merit(row) != (math.inf, math.inf):
            tied = bool(ranked) and _merit(ranked[-1]) == _merit(row)
            place = ranked[-1]["rank"] if tied else position
        ranked.append({**row, "rank": place, "front": id(row) in best})
    return ranked


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """Completed rows on the Pareto front of macro F1 and time, by rising time."""
    done = [row for row in rows if not failed(row)]
    key = time_key(done)
    return [done[i] for i in front([number(row, key) for row in done], [f1_macro(row) for row in done])]


def time_key(rows: Sequence[Row]) -> str:
    """Key of the time to compare rows by.

    It is "ratio", the time divided by that of the reference in the same run, if all measured rows have it; the ratio
    cancels differences between machines and moments. Otherwise it is "latency_ms".
    """
    timed = [row for row in rows if math.isfinite(number(row, "latency_ms"))]
    return "ratio" if timed and all(math.isfinite(number(row, "ratio")) for row in timed) else "latency_ms"


def group_seeds(rows: Sequence[Row]) -> list[Row]:
    """Average completed rows that differ in the seed only; failed rows are unchanged.

    Returns:
        One row per setting. An averaged row holds the mean of every number, its sample standard deviation under
        `<key>_spread`, `seeds` (sorted), `folders` (in the order given), `overrides` without the seed, and those other
        values that are equal in all of its rows.
    """
    groups: dict[str, list[Row]] = {}
    for position, row in enumerate(rows):
        groups.setdefault(f"failed {position}" if failed(row) else _setting(row), []).append(row)
    return [_folded(group) if len(group) > 1 else dict(group[0]) for group in groups.values()]


def differences(rows: Sequence[Row]) -> list[str]:
    """Overrides that distinguish each row: without those that all rows share, and without model and seed."""
    each = [[item for item in overrides(row) if not item.startswith(("model=", "seed="))] for row in rows]
    common = set(each[0]).intersection(*each[1:]) if len(each) > 1 else set()
    return [" ".join(item for item in items if item not in common) for items in each]


def _order(row: Row) -> tuple[bool, tuple[float, float], float, float, str]:
    latency = number(row, "latency_ms")
    return (
        failed(row),
        _merit(row),
        -_or(f1_macro(row), -math.inf),
        _or(latency, math.inf),
        json.dumps(plain({key: value for key, value in row.items() if key not in ("rank", "front")}), sort_keys=True),
    )


def _merit(row: Row) -> tuple[float, float]:
    score = number(row, "score")
    return (score, 0.0) if math.isfinite(score) else (math.inf, -_or(f1_macro(row), -math.inf))


def _or(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise


def _setting(row: Row) -> str:
    chosen = sorted(item for item in overrides(row) if not item.startswith("seed="))
    named = [row.get(key) for key in ("name", "model", "data", "size", "origin", "score_name", "precision", "file")]
    return json.dumps(plain([named, chosen]))


def _folded(group: Sequence[Row]) -> Row:
    folded: Row = {}
    for key in dict.fromkeys(key for row in group for key in row if key not in ("seed", "seeds", "rank", "front")):
        numbers = [number(row, key) for row in group]
        if all(abs(value) < LARGEST for value in numbers):
            folded[key] = statistics.fmean(numbers)
            folded[f"{key}_spread"] = statistics.stdev(numbers)
        elif all(key in row and plain(row[key]) == plain(group[0].get(key)) for row in group):
            folded[key] = group[0][key]
    seeds = [row["seed"] for row in group if "seed" in row]
    folders = [row["folder"] for row in group if "folder" in row]
    if chosen := [item for item in overrides(group[0]) if not item.startswith("seed=")]:
        folded["overrides"] = chosen  # equal up to their order, or the rows would not be in one group
    return folded | {"seeds": sorted(seeds, key=str), "runs": len(group), "folders": folders}
