"""Table of the HTML leaderboard: text and sort key of each cell."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from reports.leaderboard import duration
from reports.ranking import axes, differences
from reports.results import Row, f1_by_class, failed, fold, model, number, one_line, runs_as, stage

MAX_CLASSES = 16  # columns of F1 per class; the heat map shows all classes


class Cell(NamedTuple):
    """Cell of the table.

    Attributes:
        text: Text of the cell.
        order: Sort key, a number or a text. None is sorted last.
        hint: Longer text that is shown on hover.
        small: Second line in small type, such as an interval.
    """

    text: str
    order: float | str | None
    hint: str = ""
    small: str = ""


class Column(NamedTuple):
    """Column of the table.

    Attributes:
        title: Heading.
        cells: One per row.
        numeric: Whether sort keys are numbers.
        falling: Whether the first click sorts in descending order.
    """

    title: str
    cells: list[Cell]
    numeric: bool
    falling: bool = False


def short_labels(names: Sequence[str]) -> list[str]:
    """Remove the first words that all names share.

    Example:
        >>> short_labels(["lite0 onnx int8", "lite0 onnx fp32"])
        ['int8', 'fp32']
    """
    words = [name.split() for name in names]
    same = 0
    while len(names) > 1 and all(len(of) > same + 1 and of[same] == words[0][same] for of in words):
        same += 1
    return [" ".join(of[same:]) for of in words]


def classes(rows: Sequence[Row]) -> list[str]:
    """Return the names of all classes with an F1 in at least one row, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in f1_by_class(row)))


def table(ranked: Sequence[Row]) -> list[Column]:
    """Return the columns that have a value in at least one row: values of the ranking first, then the setting.

    Args:
        ranked: Rows of `reports.ranking.rank`.
    """
    settings = differences(ranked)
    exported, time = any(row.get("file") for row in ranked), axes(ranked).time
    eager = exported and time != "ratio"

    def text(title: str, value: Callable[[Row], str], longest: int = 80) -> Column:
        whole = [value(row) for row in ranked]
        return Column(title, [Cell(one_line(t, longest), t.lower() or None, t) for t in whole], False)

    def numbers(title: str, form: Callable[[float], str], *keys: str, falling: bool = False) -> Column:
        return Column(title, [measured(row, form, *keys) for row in ranked], True, falling)

    found = [
        Column("#", [Cell("–" if r["rank"] is None else str(r["rank"]), r["rank"]) for r in ranked], True),
        Column("model", [_model(row, exported) for row in ranked], False),
        numbers("score", "{:.4f}".format, "rank_score"),
        numbers("F1 val", "{:.4f}".format, "val/f1_macro", falling=True),
        Column("F1 test", [_f1_test(row) for row in ranked], True, True),
        Column("× faster", [faster(row, time) for row in ranked], True, True),
        Column("× eager", [faster(row, "ratio" if eager else "") for row in ranked], True, True),
        Column("ms", [_latency(row) for row in ranked], True),
        Column("MB", [measured(_sized(row), "{:.3g}".format, "MB") for row in ranked], True),
        Column("setting", [Cell(one_line(t, 90), t.lower() or None, t) for t in settings], False),
        text("seeds", seeds),
        text("folds", folds),
        Column("weights", [weights(row) for row in ranked], False),
        Column("accuracy", [_evaluated(row, "{:.4f}".format, "accuracy_micro") for row in ranked], True, True),
        *(_by_class(name, ranked) for name in classes(ranked)[:MAX_CLASSES]),
        numbers("params M", lambda v: f"{v / 1e6:.3g}", "params"),
        numbers("MACs M", lambda v: f"{v / 1e6:.0f}", "macs"),
        numbers("trained in", duration, "train_seconds"),
        text("failed", lambda row: str(row.get("error") or "no reason given") if failed(row) else "", 160),
    ]
    return [column for column in found if any(cell.text for cell in column.cells)]


def heat(ranked: Sequence[Row], names: Sequence[str]) -> list[list[tuple[str, float] | None]]:
    """Return F1 of each row and class: text, and F1 scaled from 0 (lowest) to 1 (highest); None if unknown."""
    values = [[f1_by_class(row).get(name, math.nan) for name in names] for row in ranked]
    known = [value for row in values for value in row if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    return [
        [(f"{v:.2f}", round((v - low) / ((high - low) or 1), 3)) if math.isfinite(v) else None for v in row]
        for row in values
    ]


def measured(row: Row, form: Callable[[float], str], *keys: str) -> Cell:
    """Return the cell of the first key that has a number, with its standard deviation over seeds or its interval."""
    key = next((key for key in keys if math.isfinite(number(row, key))), None)
    if key is None:
        return Cell("", None)
    value, spread = number(row, key), number(row, f"{key}_spread")
    if math.isfinite(spread) and spread:
        return Cell(form(value), value, "standard deviation over seeds", f"±{form(spread)}")
    low, high = number(row, f"{key}_low"), number(row, f"{key}_high")
    known = math.isfinite(low) and math.isfinite(high)
    return Cell(form(value), value, "95 % interval" if known else "", f"{form(low)} to {form(high)}" if known else "")


def faster(row: Row, key: str) -> Cell:
    """Return the cell of the speed relative to the reference, computed from a ratio of times; empty without one."""
    if not key.startswith("ratio") or not number(row, key) > 0:
        return Cell("", None)
    inverse = {
        "speed": 1 / number(row, key),
        "speed_low": 1 / high if (high := number(row, f"{key}_high")) > 0 else math.nan,
        "speed_high": 1 / low if (low := number(row, f"{key}_low")) > 0 else math.nan,
    }
    return measured(inverse, lambda v: f"{v:.3g}" if v < 100 else f"{v:.0f}", "speed")


def seeds(row: Row) -> str:
    """Return the seeds of a row, separated by spaces."""
    several = row.get("seeds")
    return " ".join(map(str, several)) if isinstance(several, list) else str(row.get("seed", ""))


def folds(row: Row) -> str:
    """Return the folds of a row, separated by spaces."""
    several = row.get("folds")
    return " ".join(map(str, several)) if isinstance(several, list) else "" if fold(row) is None else str(fold(row))


def weights(row: Row) -> Cell:
    """Return the cell of the origin of the initial weights: scratch or pretrained."""
    origin = one_line(row.get("origin") or "")
    return Cell(
        "" if not origin else "scratch" if origin == "scratch" else "pretrained", origin.lower() or None, origin
    )


def format_of(row: Row) -> str:
    """Return format and precision of an exported file, otherwise the runtime; "eager" for a checkpoint."""
    return one_line(f"{row['format']} {row.get('precision', '')}".strip()) if row.get("format") else runs_as(row)


def _model(row: Row, exported: bool) -> Cell:
    name = model(row)
    how = format_of(row) if exported or row.get("format") else ""
    return Cell(name, f"{name} {how}".lower(), small=how)


def _f1_test(row: Row) -> Cell:
    """Return the cell of macro F1 on the evaluated split; empty for the validation split."""
    return _evaluated(row, "{:.4f}".format, "f1_macro") if stage(row) != "val" else Cell("", None)


def _latency(row: Row) -> Cell:
    cell = measured(row, "{:.2f}".format, "latency_ms")
    if row.get("unsteady") is True and cell.text:
        return cell._replace(text=f"{cell.text} ~", hint="the measurement did not settle")
    return cell


def _by_class(name: str, ranked: Sequence[Row]) -> Column:
    cells = [_evaluated(row, "{:.2f}".format, f"f1/{name}") for row in ranked]
    return Column(f"F1 {one_line(name, 24)}", cells, True, True)


def _evaluated(row: Row, form: Callable[[float], str], key: str) -> Cell:
    """Return the cell of a metric on the evaluated split."""
    return measured(row, form, f"{stage(row)}/{key}")


def _sized(row: Row) -> Row:
    """Return the size in MB. Without `bytes` it is estimated: four bytes (float32) per parameter."""
    return {"MB": number(row, "bytes") / 1e6 if "bytes" in row else 4 * number(row, "params") / 1e6}
