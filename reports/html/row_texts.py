"""Texts about one row of the leaderboard: lines of its tooltip and of its details."""

import math
from collections.abc import Mapping

from reports.html.table import Cell, faster, format_of, measured, seeds, weights
from reports.results import Row, f1_by_class, number, one_line, stage


def tooltip(row: Row) -> str:
    """Return the lines of a tooltip below the name."""
    values = [
        ("macro F1", measured(row, "{:.4f}".format, f"{stage(row)}/f1_macro").text),
        ("latency", measured(row, "{:.2f} ms".format, "latency_ms").text),
        ("score", measured(row, "{:.4f}".format, "score").text),
        ("weights", weights(row).text),
        ("seeds", seeds(row)),
    ]
    return "\n".join(f"{name} {value}" for name, value in values if value)


def details(row: Row) -> list[tuple[str, str]]:
    """Return name and text of all known measurements of a row."""
    found = {
        "runs as": Cell(format_of(row), None),
        "macro F1": measured(row, "{:.4f}".format, f"{stage(row)}/f1_macro"),
        "validation macro F1": measured(row, "{:.4f}".format, "val/f1_macro"),
        "macro F1 lost by export": measured(row, "{:.4f}".format, f"{stage(row)}/f1_lost"),
        "class that loses most F1": Cell(_worst_class(row), None),
        "score": measured(row, "{:.4f}".format, "score"),
        "validation score": measured(row, "{:.4f}".format, "val/score"),
        "latency, ms": measured(row, "{:.2f}".format, "latency_ms"),
        "times faster than the eager reference": faster(row, "ratio"),
        "times faster than the reference in the same runtime": faster(row, "ratio_same_runtime"),
        "MB": measured({"bytes": number(row, "bytes") / 1e6}, "{:.3g}".format, "bytes"),
        "same predictions as the checkpoint": measured(row, "{:.1%}".format, "agreement"),
        "largest difference of a probability": measured(row, "{:.2g}".format, "difference"),
        "kept above the threshold": measured(row, "{:.1%}".format, f"{stage(row)}/coverage"),
        "of these right": measured(row, "{:.1%}".format, f"{stage(row)}/kept_accuracy"),
        "expected calibration error": measured(row, "{:.4f}".format, f"{stage(row)}/ece"),
    }
    lines = [(name, f"{cell.text} ({cell.small})" if cell.small else cell.text) for name, cell in found.items()]
    if row.get("unsteady") is True:
        lines.append(("latency", "unsteady: the measurement did not settle"))
    return [(name, text) for name, text in lines if text]


def _worst_class(row: Row) -> str:
    change = number(row, "worst_class_change")
    return f"{one_line(row.get('worst_class') or '', 40)} {change:+.3f}" if math.isfinite(change) else ""


def class_changes(row: Row, run: Row | None) -> list[tuple[str, str, str]]:
    """Return name, F1 and change against the checkpoint of the run, for each class of an exported file."""
    before: Mapping[str, float] = f1_by_class(run) if run else {}
    found = []
    for name, value in f1_by_class(row).items():
        change = value - before.get(name, math.nan)
        found.append((one_line(name, 40), f"{value:.2f}", f"{change:+.3f}" if math.isfinite(change) else ""))
    return found
