"""Report of exported files: one row per file, the recommended file and the reason, as text, CSV and JSON."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from litesort.io import write_csv, write_json
from reports.results import number, one_line

Row = Mapping[str, Any]
COLUMNS = (
    "file", "format", "precision", "status", "f1_macro", "f1_lost", "latency_ms", "latency_p90_ms",
    "ratio", "ratio_same_runtime", "unsteady", "end_to_end_ms", "bytes", "score",
    "difference", "agreement", "float_layers", "error",
)  # fmt: skip
_EXACTNESS = {"fp32": 0, "fp16": 1, "int8": 2}


def recommend(rows: Sequence[Row], max_drop: float) -> tuple[Row | None, str]:
    """Choose the fastest file that loses at most `max_drop` macro F1, and explain the choice.

    Among equally fast files the more exact precision wins. A file that failed or was not measured is never chosen.

    Args:
        rows: `status`, `file`, `precision`, `latency_ms` (median, batch 1), `f1_lost` against the checkpoint.
        max_drop: Macro F1, 0 or more.

    Returns:
        The row, or None without a suitable file, and the reason in one line.
    """
    done = [row for row in rows if row.get("status") == "completed" and math.isfinite(number(dict(row), "latency_ms"))]
    good = [row for row in done if number(dict(row), "f1_lost") <= max_drop]
    if not done:
        return None, "no file was written: see the errors above"
    if not good:
        return None, f"no file keeps macro F1 within {max_drop:g} of the checkpoint: raise max_drop or train again"
    best = min(good, key=lambda row: (row["latency_ms"], _EXACTNESS.get(row["precision"], 9)))
    others = [row for row in good if row is not best]
    reason = f"the fastest of {len(good)} that lose at most {max_drop:g} macro F1" if others else "the only one"
    if others:
        second = min(others, key=lambda row: row["latency_ms"])
        reason += f": {best['latency_ms']:.2f} ms, next is {second['file']} with {second['latency_ms']:.2f}"
    int8 = [row for row in done if row["format"] == best["format"] and row["precision"] == "int8" and row is not best]
    if int8 and best["precision"] != "int8":
        slower = int8[0]["latency_ms"] >= best["latency_ms"]
        reason += (
            "; int8 is not faster on this machine" if slower else f"; int8 loses {int8[0]['f1_lost']:.3f} macro F1"
        )
    return best, reason


def checkpoint_row(ckpt: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Row of the checkpoint; exported files are compared with it."""
    known = {"file": "checkpoint", "path": str(ckpt), "format": "torch eager", "precision": "fp32", "error": None}
    equal = {"f1_macro": scores["f1_macro"], "f1_lost": 0.0, "difference": 0.0, "agreement": 1.0}
    size = Path(ckpt).stat().st_size if Path(ckpt).is_file() else 0
    return {**known, **equal, "status": "completed", "bytes": size}


def timed(
    rows: Sequence[Row], times: Callable[[str], Mapping[str, Any]], score: Callable[[Row], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Add times at batch 1 and scores to rows.

    Args:
        rows: Rows of files; rows that are not completed are unchanged.
        times: Called with `file`: see `deployment.latency.LatencyReport.row`.
        score: Called with a row: see `deployment.score.Score.compute`.
    """
    return [{**row, **times(row["file"]), **score(row)} if row["status"] == "completed" else dict(row) for row in rows]


def print_artifacts(
    rows: Sequence[Row],
    chosen: Row | None,
    reason: str,
    calibration: Mapping[str, float],
    console: Console | None = None,
) -> None:
    """Print a table with one row per file, then errors, calibration, and the recommended file with the reason.

    Args:
        rows: Result of `timed`.
        chosen: Row that `recommend` returned.
        reason: Reason that `recommend` returned.
        calibration: Dict that `reports.calibration.calibrate` returned.
        console: Output; the terminal by default.
    """
    console = console or Console()
    table = Table(title="Exported files", title_justify="left", box=None)
    table.add_column("file", overflow="fold")
    for title in ("macro F1", "ms", "× eager", "× same", "MB", "score", "max diff", "equal"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        mark, style = ("→ ", "bold green") if row is chosen else ("  ", "")
        name = Text(mark + one_line(row["file"], 60), style=style)
        cells = _cells(row) if row["status"] == "completed" else [Text(row["status"], style="yellow")]
        table.add_row(name, *cells)
    console.print(table)
    reference = next((one_line(row["reference"], 40) for row in rows if row.get("reference")), "the reference")
    console.print(
        f"× eager, × same: time divided by that of {reference} in PyTorch, and in the runtime of the file (fp32)\n"
        "max diff: largest difference of a probability from the checkpoint; equal: share of equal predictions"
    )
    if any(row.get("unsteady") for row in rows):
        console.print(Text("~: the time did not settle; measure again when the machine is idle", style="yellow"))
    for row in rows:
        if row["status"] != "completed":
            console.print(Text(f"{row['file']}: {row['error']}", style="yellow"))
        if row.get("float_layers"):
            console.print(f"{row['file']}: layers kept in float: {len(row['float_layers'])}")
    console.print(
        f"confidence: temperature {calibration['temperature']:.2f}, expected calibration error "
        f"{calibration['ece_before']:.4f} before, {calibration['ece_after']:.4f} after"
    )
    console.print(Text(f"recommended: {chosen['file']}, {reason}" if chosen else reason, style="bold"))


def _cells(row: Row) -> list[str]:
    same = number(dict(row), "ratio_same_runtime")
    return [
        f"{row['f1_macro']:.4f}", f"{'~' if row['unsteady'] else ''}{row['latency_ms']:.2f}", f"{row['ratio']:.3f}",
        f"{same:.3f}" if math.isfinite(same) else "", f"{row['bytes'] / 1e6:.1f}", f"{row['score']:.3f}",
        f"{row['difference']:.1g}", f"{row['agreement']:.1%}",
    ]  # fmt: skip


def write_artifacts(folder: Path, report: Mapping[str, Any], rows: Sequence[Row]) -> list[Path]:
    """Write export.json (the whole report) and export.csv (one row per file); returns their paths."""
    return [write_json(folder / "export.json", report), write_csv(folder / "export.csv", rows, COLUMNS)]
