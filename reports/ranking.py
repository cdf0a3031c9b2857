"""Rank rows of runs and average the seeds and folds of one setting; pure functions."""

import itertools
import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from litesort.io import plain
from reports.pareto import front
from reports.results import (
    Row,
    exported_as,
    f1_macro,
    failed,
    fold,
    is_evaluation,
    model,
    number,
    one_line,
    overrides,
)

LARGEST = 1e150  # the square of a larger number overflows in the standard deviation
# Values that are equal in runs that differ only in seed or fold.
SETTING = (
    "name", "model", "data", "size", "origin", "split", "precision", "format", "runtime", "file",
    "score_name", "score_parameters", "threads", "reference",
)  # fmt: skip
MACHINE = ("cpu", "cores", "instruction_sets")  # values of `machine` that do not change over time
ADDED = ("rank", "front", "rank_score", "ranked_by")  # keys that `rank` adds
REPEATED = ("seed=", "data.fold=")  # overrides in which averaged rows may differ


class Axes(NamedTuple):
    """The time and the macro F1 by which table, charts and search compare rows.

    Attributes:
        time: Key of the time, lower is better: `ratio_same_runtime`, `ratio` or `latency_ms`.
        f1: Key of the macro F1: "val/f1_macro", or "" for the macro F1 of the evaluated split.
        time_label: Text for the axis of the time.
        f1_label: Text for the axis of macro F1.
    """

    time: str
    f1: str
    time_label: str
    f1_label: str

    def point(self, row: Row) -> tuple[float, float]:
        """Return time and macro F1 of a row; NaN where unknown."""
        return number(row, self.time), number(row, self.f1) if self.f1 else f1_macro(row)


def axes(rows: Sequence[Row]) -> Axes:
    """Choose the time and the macro F1 that all completed rows have.

    The time is `ratio_same_runtime`, the time divided by that of the reference in the same runtime. If a measured row
    lacks it, it is `ratio`, which divides by the time of the eager reference; without ratios it is `latency_ms`. Ratios
    cancel differences between machines and changes over time. Macro F1 is that of the validation images if all
    rows have it, because choices are made on validation images.
    """
    done = [row for row in rows if not failed(row)]
    timed = [row for row in done if math.isfinite(number(row, "latency_ms"))]
    keys = [key for key in ("ratio_same_runtime", "ratio") if timed and _all_have(timed, key)]
    references = {one_line(row["reference"], longest=40) for row in timed if row.get("reference")}
    reference = references.pop() if len(references) == 1 else "the reference"
    labels = {
        "ratio_same_runtime": f"time relative to {reference} in the same runtime",
        "ratio": f"time relative to {reference}, eager",
        "latency_ms": "latency in ms",
    }
    time = keys[0] if keys else "latency_ms"
    evaluated = [row for row in done if math.isfinite(f1_macro(row))]
    val = bool(evaluated) and _all_have(evaluated, "val/f1_macro")
    return Axes(time, "val/f1_macro" if val else "", labels[time], "macro F1, validation" if val else "macro F1")


def rank(rows: Sequence[Row]) -> list[Row]:
    """Sort rows by score, lowest (best) first. Failed rows come last.

    Rows are ranked by `val/score`, because choices are made on validation images. Rows without it follow, ranked by
    `score`, then completed rows without a score, ranked by macro F1. Rows of equal score share a rank and are ordered
    by macro F1, then latency. The result does not depend on the order of the input.

    Returns:
        Copies with four more keys. `rank` is 1, 2, 2, 4, ..., or None without score and macro F1. `rank_score` is the
        score that a row is ranked by, see `rank_score`, and `ranked_by` names its key. `front` is true for rows on the
        Pareto front of macro F1 and time.
    """
    best = {id(row) for row in pareto_front(rows)}
    ranked: list[Row] = []
    for position, row in enumerate(sorted(rows, key=_order), start=1):
        place: int | None = None
        merit, (key, value) = _merit(row), rank_score(row)
        if not failed(row) and merit != (3, 0.0):
            tied = bool(ranked) and not failed(ranked[-1]) and _merit(ranked[-1]) == merit
            place = ranked[-1]["rank"] if tied else position
        known = {"rank_score": value, "ranked_by": key} if math.isfinite(value) else {}
        ranked.append({**row, "rank": place, "front": id(row) in best, **known})
    return ranked


def rank_score(row: Row) -> tuple[str, float]:
    """Return key and value of the score that a row is ranked by; the value is NaN without a score.

    The score of an exported file depends on its time relative to the eager reference. This ratio includes the speed-up
    that the runtime gives to any network. For the ranking it is therefore replaced by the time relative to the
    reference in the same runtime. For a checkpoint, which runs eagerly, the two ratios are equal.
    """
    key = "val/score" if math.isfinite(number(row, "val/score")) else "score"
    value = number(row, key)
    used = row.get("score_parameters")
    used = used if isinstance(used, dict) else {}
    difference = number(row, "ratio_same_runtime") - number(row, "ratio")
    weight = 0.5 * number(used, "reference_time") / number(used, "base_time")
    if used.get("time") == "relative" and math.isfinite(difference * weight):
        value += weight * difference
    return key, value


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """Return the completed rows on the Pareto front of macro F1 and time, fastest first; see `axes`."""
    done = [row for row in rows if not failed(row)]
    shown = axes(done)
    points = [shown.point(row) for row in done]
    return [done[i] for i in front([cost for cost, _ in points], [value for _, value in points])]


def group_seeds(rows: Sequence[Row]) -> list[Row]:
    """Average completed rows of trainings that differ only in seed or fold. Other rows are unchanged.

    Rows that differ in anything else are not averaged: overrides, split, machine, threads, reference, precision, format
    or the evaluated checkpoint. Evaluations, which have no seed, and repetitions of the same seed and fold are not
    averaged either.

    Returns:
        One row per setting. An averaged row has the mean of every number, its sample standard deviation under
        `<key>_spread`, `seeds` and `folds` (sorted), `runs`, `folders` (in the order given), `overrides` without seed
        and fold, and the other values that are equal in all of its rows. Intervals (`*_low`, `*_high`) of single runs
        are left out. `unsteady` is true if it is true in one of the rows.
    """
    groups: dict[str, list[Row]] = {}
    seen: Counter[str] = Counter()
    for position, row in enumerate(rows):
        if failed(row) or "seed" not in row:
            groups[f"single {position}"] = [row]
            continue
        setting = _setting(row)
        member = json.dumps(plain([setting, row["seed"], fold(row)]))
        seen[member] += 1
        groups.setdefault(f"{seen[member]} {setting}", []).append(row)
    return [_folded(group) if len(group) > 1 else dict(group[0]) for group in groups.values()]


def averaged_over(grouped: Sequence[Row]) -> str:
    """Return what rows of `group_seeds` are averaged over: "seeds", "folds" or "seeds and folds"."""
    kinds = [kind for kind in ("seeds", "folds") if any(_several(row.get(kind)) for row in grouped)]
    return " and ".join(kinds) or "seeds"


def differences(rows: Sequence[Row]) -> list[str]:
    """Return what distinguishes each row: its settings without common ones, and without model, seed and fold.

    Rows of evaluations also name their checkpoint. All rows name machine, threads and reference where these differ.
    """
    left_out = ("model=", *REPEATED)
    each = [[item for item in overrides(row) if not item.startswith(left_out)] for row in rows]
    common = set(each[0]).intersection(*each[1:]) if each else set()
    conditions = {
        "ckpt": _below_common_folder([str(row["ckpt"]) if is_evaluation(row) else None for row in rows]),
        "threads": [row.get("threads") for row in rows],
        "reference": [row.get("reference") for row in rows],
        "cpu": [_machine(row).get("cpu") for row in rows],
    }
    for name, values in conditions.items():
        if len({str(value) for value in values if value is not None}) > 1:
            for items, value in zip(each, values, strict=True):
                items += [f"{name}={one_line(value, longest=60)}"] if value is not None else []
    return [" ".join(item for item in items if item not in common) for items in each]


def labels(rows: Sequence[Row]) -> list[str]:
    """Return a short unique name for each row: model and distinguishing settings, then seed, fold or a number."""
    names = [
        one_line(f"{exported_as(row) or model(row)} {_short_keys(setting)}".strip(), longest=64)
        for row, setting in zip(rows, differences(rows), strict=True)
    ]
    for extra in (_seed_name, _fold_name):
        values: dict[str, set[str]] = {}
        for name, row in zip(names, rows, strict=True):
            values.setdefault(name, set()).add(extra(row))
        names = [
            f"{name} {extra(row)}".strip() if len(values[name]) > 1 else name
            for name, row in zip(names, rows, strict=True)
        ]
    counts, seen = Counter(names), Counter[str]()
    for i, name in enumerate(names):
        seen[name] += 1
        if counts[name] > 1:
            names[i] = f"{name} #{seen[name]}"
    return names


def _short_keys(setting: str) -> str:
    """Remove the groups of keys: "optimizer.lr=0.1" becomes "lr=0.1"."""
    return re.sub(r"(^| )[\w.]+\.(\w+)=", r"\1\2=", setting)


def _several(values: Any) -> bool:
    return isinstance(values, list) and len(values) > 1


def _seed_name(row: Row) -> str:
    return f"seed {one_line(row['seed'], longest=12)}" if "seed" in row else ""


def _fold_name(row: Row) -> str:
    return f"fold {fold(row)}" if fold(row) is not None else ""


def _all_have(rows: Sequence[Row], key: str) -> bool:
    return all(math.isfinite(number(row, key)) for row in rows)


def _order(row: Row) -> tuple[bool, tuple[int, float], float, float, str]:
    return (
        failed(row),
        _merit(row),
        -_or(_chosen_f1(row), -math.inf),
        _or(number(row, "latency_ms"), math.inf),
        json.dumps(plain({key: value for key, value in row.items() if key not in ADDED}), sort_keys=True),
    )


def _merit(row: Row) -> tuple[int, float]:
    key, score = rank_score(row)
    if math.isfinite(score):
        return int(key != "val/score"), score
    f1 = _chosen_f1(row)
    return (2, -f1) if math.isfinite(f1) else (3, 0.0)


def _chosen_f1(row: Row) -> float:
    return _or(number(row, "val/f1_macro"), f1_macro(row))


def _or(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise


def _machine(row: Row) -> dict[str, Any]:
    machine = row.get("machine")
    return {key: machine.get(key) for key in MACHINE} if isinstance(machine, dict) else {}


def _setting(row: Row) -> str:
    chosen = sorted(item for item in overrides(row) if not item.startswith(REPEATED))
    ckpt = row.get("ckpt") if is_evaluation(row) else None
    return json.dumps(plain([[row.get(key) for key in SETTING], _machine(row), ckpt, chosen]), sort_keys=True)


def _below_common_folder(paths: Sequence[str | None]) -> list[str | None]:
    """Return paths without the folders that are common to all."""
    parts = [re.split(r"[/\\]", path) if path is not None else None for path in paths]
    known = [part[:-1] for part in parts if part is not None]
    shared = sum(1 for _ in itertools.takewhile(lambda names: len(set(names)) == 1, zip(*known, strict=False)))
    return ["/".join(part[shared:]) if part is not None else None for part in parts]


def _folded(group: Sequence[Row]) -> Row:
    folded: Row = {}
    left_out = ("seed", "seeds", *ADDED)
    for key in dict.fromkeys(key for row in group for key in row if key not in left_out):
        if key.endswith(("_low", "_high")):
            continue
        numbers = [number(row, key) for row in group]
        if all(abs(value) < LARGEST for value in numbers):
            equal = len(set(numbers)) == 1  # equal integers, such as threads, stay integers
            folded[key] = group[0][key] if equal else statistics.fmean(numbers)
            folded[f"{key}_spread"] = statistics.stdev(numbers)
        elif all(key in row and plain(row[key]) == plain(group[0].get(key)) for row in group):
            folded[key] = group[0][key]
    seeds = list({one_line(row["seed"]): row["seed"] for row in group}.values())
    folds = {place for row in group if (place := fold(row)) is not None}
    folders = [row["folder"] for row in group if "folder" in row]
    if chosen := [item for item in overrides(group[0]) if not item.startswith(REPEATED)]:
        folded["overrides"] = chosen  # the rows of a group have equal overrides, up to their order
    scores = [rank_score(row)[1] for row in group]
    if all(abs(score) < LARGEST for score in scores):
        folded["rank_score_spread"] = statistics.stdev(scores)
    if any(row.get("unsteady") for row in group):
        folded["unsteady"] = True
    known = {
        "seeds": sorted(seeds, key=lambda seed: (len(str(seed)), str(seed))),
        "runs": len(group),
        "folders": folders,
    }
    return folded | known | ({"folds": sorted(folds)} if folds else {})
