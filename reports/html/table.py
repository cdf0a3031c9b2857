"""Table of the HTML leaderboard: text and sort key of each cell."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from reports.leaderboard import duration
from reports.ranking import differences
from reports.results import Row, f1_by_class, f1_macro, failed, model, number, one_line

MOST_CLASSES = 16  # columns of F1 per class; the heat map shows all classes


class Cell(NamedTuple):
    """Cell of the table.

    Attributes:
        text: Shown text.
        order: Sort key, a number or a text; None sorts last.
        hint: Longer text, shown on hover.
    """

    text: str
    order: float | str | None
    hint: str = ""


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


def classes(rows: Sequence[Row]) -> list[str]:
    """Names of all classes with an F1 in at least one row, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in f1_by_class(row)))


def table(ranked: Sequence[Row]) -> list[Column]:
    """Columns that hold a value for at least one row.

    Args:
        ranked: Rows of `reports.ranking.rank`.
    """
    settings = differences(ranked)

    def text(title: str, value: Callable[[Row], str], longest: int = 80) -> Column:
        whole = [value(row) for row in ranked]
        return Column(title, [Cell(one_line(t, longest), t.lower() or None, t) for t in whole], False)

    def numbers(title: str, form: Callable[[float], str], *keys: str, falling: bool = False) -> Column:
        return Column(title, [_number(row, form, *keys) for row in ranked], True, falling)

    found = [
        Column("#", [Cell("–" if r["rank"] is None else str(r["rank"]), r["rank"]) for r in ranked], True),
        text("model", model),
        Column("setting", [Cell(one_line(t, 90), t.lower() or None, t) for t in settings], False),
        text("runs as", lambda row: f"{row['format']} {row.get('precision', '')}" if row.get("format") else ""),
        text("seeds", _seeds),
        Column("weights", [_weights(row) for row in ranked], False),
        numbers("score", "{:.4f}".format, "score"),
        numbers("macro F1", "{:.4f}".format, "test/f1_macro", "val/f1_macro", falling=True),
        *(_by_class(name, ranked) for name in classes(ranked)[:MOST_CLASSES]),
        numbers("accuracy", "{:.4f}".format, "test/accuracy_micro", "val/accuracy_micro", falling=True),
        numbers("latency ms", "{:.2f}".format, "latency_ms"),
        numbers("× reference", "{:.3f}".format, "ratio"),
        numbers("params M", lambda v: f"{v / 1e6:.3g}", "params"),
        Column("size MB", [_number(_sized(row), lambda v: f"{v / 1e6:.3g}", "bytes") for row in ranked], True),
        numbers("MACs M", lambda v: f"{v / 1e6:.0f}", "macs"),
        numbers("trained in", duration, "train_seconds"),
        text("failed", lambda row: str(row.get("error") or "no reason given") if failed(row) else "", 160),
    ]
    return [column for column in found if any(cell.text for cell in column.cells)]


def heat(ranked: Sequence[Row], names: Sequence[str]) -> list[list[tuple[str, float] | None]]:
    """F1 of each row and class: text, and position between the lowest (0) and highest (1) F1; None if unknown."""
    values = [[f1_by_class(row).get(name, math.nan) for name in names] for row in ranked]
    known = [value for row in values for value in row if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    return [
        [(f"{v:.2f}", round((v - low) / ((high - low) or 1), 3)) if math.isfinite(v) else None for v in row]
        for row in values
    ]


def facts(row: Row) -> str:
    """Lines of a tooltip below the name."""
    values = [
        ("macro F1", _number(row, "{:.4f}".format, "test/f1_macro", "val/f1_macro").text),
        ("latency", _number(row, "{:.2f} ms".format, "latency_ms").text),
        ("score", _number(row, "{:.4f}".format, "score").text),
        ("weights", _weights(row).text),
        ("seeds", _seeds(row)),
    ]
    return "\n".join(f"{name} {value}" for name, value in values if value)


def _seeds(row: Row) -> str:
    several = row.get("seeds")
    return " ".join(map(str, several)) if isinstance(several, list) else str(row.get("seed", ""))


def _number(row: Row, form: Callable[[float], str], *keys: str) -> Cell:
    key = next((key for key in keys if math.isfinite(number(row, key))), None)
    if key is None:
        return Cell("", None)
    value, spread = number(row, key), number(row, f"{key}_spread")
    shown = form(value) + (f" ±{form(spread)}" if math.isfinite(spread) and spread else "")
    return Cell(shown, value)


def _by_class(name: str, ranked: Sequence[Row]) -> Column:
    keys = (f"test/f1/{name}", f"val/f1/{name}")
    tested = [math.isfinite(f1_macro(row)) and math.isfinite(number(row, "test/f1_macro")) for row in ranked]
    cells = [_number(row, "{:.2f}".format, keys[not test]) for row, test in zip(ranked, tested, strict=True)]
    return Column(f"F1 {one_line(name, 24)}", cells, True, True)


def _weights(row: Row) -> Cell:
    origin = one_line(row.get("origin") or "")
    return Cell(
        "" if not origin else "scratch" if origin == "scratch" else "pretrained", origin.lower() or None, origin
    )


def _sized(row: Row) -> Row:
    """Row with `bytes`; without them the size is estimated as float32, four bytes per parameter."""
    params = number(row, "params")
    return row if math.isfinite(number(row, "bytes")) or not math.isfinite(params) else {"bytes": 4 * params}
