"""Report of exported files: one row per file, the recommended file and the reason, as text, CSV and JSON."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from litesort.io import write_csv, write_json
from reports.intervals import f1_interval, f1_loss_interval
from reports.per_class import confusion_counts, per_class
from reports.rejection import evaluate_threshold
from reports.results import number, one_line, split_name
from reports.summary import rejection_lines

Row = Mapping[str, Any]
COLUMNS = (
    "file", "format", "precision", "status", "val/f1_macro", "val/f1_lost", "test/f1_macro", "test/f1_macro_low",
    "test/f1_macro_high", "test/f1_lost", "test/f1_lost_low", "test/f1_lost_high", "worst_class", "worst_class_change",
    "threshold", "threshold_target", "test/coverage", "test/kept_accuracy", "latency_ms", "latency_ms_low",
    "latency_ms_high", "latency_p90_ms", "ratio", "ratio_same_runtime", "unsteady", "end_to_end_ms", "bytes", "score",
    "val/score", "difference", "agreement", "float_layers", "error",
)  # fmt: skip
CHOICE_COLUMNS = ("macro F1", "max diff", "equal", "ms", "× eager", "× same", "MB")
RESULT_COLUMNS = ("macro F1", "lost", "worst class", "score")
WIDE = 110  # columns of a terminal in which a file's results fit on one line
_EXACTNESS = {"fp32": 0, "fp16": 1, "bf16": 2, "int8": 3}


def recommend(rows: Sequence[Row], max_drop: float) -> tuple[Row | None, str]:
    """Choose a fast file that loses at most `max_drop` macro F1 on validation images, and explain the choice.

    Files whose latency interval overlaps with that of the fastest file count as equally fast. Of these, the file with
    the most exact precision is chosen, then the one with the lowest latency. A file that failed or was not measured is
    never chosen.

    Args:
        rows: `status`, `file`, `precision`, `val/f1_lost` against the checkpoint, `latency_ms` (median, batch 1) and
            its 95 % interval `latency_ms_low`, `latency_ms_high`; without these the median is used.
        max_drop: Largest allowed loss of macro F1, 0 or more.

    Returns:
        The row, or None if no file is suitable, and the reason in one line.
    """
    done = [row for row in rows if row.get("status") == "completed" and math.isfinite(number(dict(row), "latency_ms"))]
    good = [row for row in done if number(dict(row), "val/f1_lost") <= max_drop]
    if not done:
        return None, "no file was written: see the errors above"
    if not good:
        return None, (
            f"no file keeps macro F1 on validation images within {max_drop:g} of the checkpoint: raise max_drop or "
            "train again"
        )
    fastest = min(good, key=lambda row: row["latency_ms"])
    tied = [row for row in good if number(dict(row), "latency_ms_low", "latency_ms") <= _latency_upper(fastest)]
    best = min(tied, key=lambda row: (_EXACTNESS.get(row["precision"], 9), row["latency_ms"]))
    return best, _reason(best, fastest, done, good, max_drop)


def _latency_upper(row: Row) -> float:
    """Return the upper end of a row's latency interval in ms."""
    return number(dict(row), "latency_ms_high", "latency_ms")


def _reason(best: Row, fastest: Row, done: Sequence[Row], good: Sequence[Row], max_drop: float) -> str:
    if len(good) == 1:
        reason = "the only suitable file"
    else:
        reason = f"the fastest of {len(good)} that lose at most {max_drop:g} macro F1 on validation images"
        second = min((row for row in good if row is not best), key=lambda row: row["latency_ms"])
        reason += f": {best['latency_ms']:.2f} ms, next is {second['file']} with {second['latency_ms']:.2f}"
    if best is not fastest:
        reason = (
            f"as fast as {fastest['file']} within the noise of the measurement ({best['latency_ms']:.2f} and "
            f"{fastest['latency_ms']:.2f} ms), and more exact"
        )
    int8 = [row for row in done if row["format"] == best["format"] and row["precision"] == "int8" and row is not best]
    if int8 and best["precision"] != "int8" and int8[0] is not fastest:
        slower = int8[0]["latency_ms"] >= best["latency_ms"]
        lost = int8[0]["val/f1_lost"]
        reason += "; int8 is not faster on this machine" if slower else f"; int8 loses {lost:.3f} macro F1"
    return reason


def checkpoint_row(ckpt: str, val_f1: float, size: int) -> dict[str, Any]:
    """Return the row of the checkpoint, which exported files are compared with.

    Args:
        ckpt: Path of the checkpoint.
        val_f1: Macro F1 on the validation images, in [0, 1].
        size: Bytes of the weights and buffers.
    """
    known = {"file": "checkpoint", "path": str(ckpt), "format": "torch eager", "precision": "fp32", "error": None}
    equal = {"val/f1_macro": val_f1, "val/f1_lost": 0.0, "difference": 0.0, "agreement": 1.0}
    return {**known, **equal, "status": "completed", "bytes": size}


def evaluated_row(
    row: Row,
    stage: str,
    targets: np.ndarray,
    probabilities: np.ndarray,
    reference: np.ndarray,
    classes: Sequence[str],
    chosen_here: bool = False,
) -> dict[str, Any]:
    """Add results to a row, measured on images that were not used for any choice.

    Args:
        row: Row of a file, or of the checkpoint.
        stage: Prefix of the keys, e.g. "test".
        targets: (N,) int, true classes.
        probabilities: (N, C) float in [0, 1], of the file.
        reference: (N, C) float in [0, 1], of the checkpoint.
        classes: (C,) names.
        chosen_here: Whether the threshold was chosen on these images. Then the threshold is not evaluated.

    Returns:
        The row with `<stage>/f1_macro` and `<stage>/f1_lost`, with their 95 % bootstrap intervals `_low` and `_high`,
        `<stage>/f1/<class>`, `worst_class` and `worst_class_change` (the class with the largest loss of F1 against the
        checkpoint, and its change; below 0 is worse), and the values of `reports.rejection.evaluate_threshold`.
    """
    predicted, before, count = probabilities.argmax(1), reference.argmax(1), len(classes)
    own, base = (_class_f1(targets, predictions, classes) for predictions in (predicted, before))
    changes = {name: own[name] - base[name] for name in own}
    worst = min(changes, key=lambda name: changes[name])
    f1 = sum(own.values()) / len(own)
    values: dict[str, Any] = {
        "f1_macro": f1,
        **_ends("f1_macro", f1_interval(targets, predicted, count)),
        "f1_lost": sum(base.values()) / len(base) - f1,
        **_ends("f1_lost", f1_loss_interval(targets, before, predicted, count)),
        **{f"f1/{name}": value for name, value in own.items()},
        **({} if chosen_here else evaluate_threshold(probabilities, targets, row.get("threshold"))),
    }
    is_file = row["file"] != "checkpoint"
    worst_class = {"worst_class": worst, "worst_class_change": changes[worst]} if is_file else {}
    return {**row, **{f"{stage}/{key}": value for key, value in values.items()}, **worst_class}


def _class_f1(targets: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Return the F1 of each class that has images."""
    scores = per_class(confusion_counts(targets, predicted, len(classes)), classes)
    return {one.name: one.f1 for one in scores if one.support}


def _ends(key: str, interval: tuple[float, float]) -> dict[str, float]:
    return {f"{key}_low": interval[0], f"{key}_high": interval[1]}


def add_times(rows: Sequence[Row], times: Callable[[str], Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add times at batch 1 to rows.

    Args:
        rows: Rows of files. Rows that are not completed are unchanged.
        times: Maps `file` to its times; see `deployment.latency.LatencyReport.row`.
    """
    return [{**row, **times(row["file"])} if row["status"] == "completed" else dict(row) for row in rows]


def print_artifacts(
    rows: Sequence[Row],
    recommended: str | None,
    reason: str,
    calibration: Mapping[str, float],
    report: Mapping[str, Any],
    console: Console | None = None,
) -> None:
    """Print the validation results and the recommended file, then the results on images that were not used for choices.

    Args:
        rows: Results of `evaluated_row`, and rows that are not completed.
        recommended: Name of the file that `recommend` returned.
        reason: Reason that `recommend` returned.
        calibration: Result of `reports.calibration.calibration_change`.
        report: Content of export.json.
        console: Output; the terminal by default.
    """
    console = console or Console()
    evaluated, done = stage_of(report["split"]), [row for row in rows if row["status"] == "completed"]
    choice = _table("Exported files: every choice is made on validation images", *CHOICE_COLUMNS)
    for row in rows:
        name = _name(row, recommended)
        choice.add_row(name, *(_choice_cells(row) if row in done else [Text(row["status"], style="yellow")]))
    console.print(choice)
    reference = next((one_line(row["reference"], 40) for row in rows if row.get("reference")), "the reference")
    console.print(
        Text(
            f"× eager, × same: time divided by that of {reference} in PyTorch, and in the runtime of the file (fp32)\n"
            "max diff: largest difference of a probability from the checkpoint; equal: share of equal predictions"
        )
    )
    if any(row.get("unsteady") for row in rows):
        console.print(Text("~: the time did not settle; measure again when the machine is idle", style="yellow"))
    for row in rows:
        if row["status"] != "completed":
            console.print(Text(f"{row['file']}: {row['error'].removeprefix(row['file'] + ': ')}", style="yellow"))
        if row.get("float_layers"):
            console.print(Text(f"{row['file']}: layers kept in float: {len(row['float_layers'])}"))
    console.print(Text(f"recommended: {recommended}, {reason}" if recommended else reason, style="bold"))
    title = f"On the {split_name(dict(report))}, {report['images']} images (95 % intervals)"
    result = _table(title, *RESULT_COLUMNS)
    for row in done:
        result.add_row(_name(row, recommended), *_result_cells(row, evaluated, console.width < WIDE))
    console.print(result)
    for row in done:
        if row["file"] == recommended:
            for title, value in rejection_lines({**row, "split": report["split"]}):
                console.print(Text(f"{title}: {value}"))
    console.print(
        f"confidence: temperature {calibration['temperature']:.2f}, expected calibration error "
        f"{calibration['ece_before']:.4f} before, {calibration['ece_after']:.4f} after"
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("file", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _name(row: Row, recommended: str | None) -> Text:
    mark, style = ("→ ", "bold green") if row["file"] == recommended else ("  ", "")
    return Text(mark + one_line(row["file"], 60), style=style)


def stage_of(split: str) -> str:
    """Return the prefix of a split's metrics; it is "test" for images from outside the run."""
    return {"unseen": "test"}.get(split, split)


def _choice_cells(row: Row) -> list[str]:
    same = number(dict(row), "ratio_same_runtime")
    return [
        f"{row['val/f1_macro']:.3f}", f"{row['difference']:.1g}", f"{row['agreement']:.1%}",
        f"{'~' if row['unsteady'] else ''}{row['latency_ms']:.2f}", f"{row['ratio']:.3f}",
        f"{same:.3f}" if math.isfinite(same) else "", f"{row['bytes'] / 1e6:.1f}",
    ]  # fmt: skip


def _result_cells(row: Row, evaluated: str, narrow: bool) -> list[str]:
    """Return the cells of a file's results; in a narrow terminal an interval is on a line of its own."""
    pattern, gap = ("{:.3f}\n{:.3f} to {:.3f}", "\n") if narrow else ("{:.3f} ({:.3f} to {:.3f})", " ")
    f1, lost = (
        pattern.format(*(row[f"{evaluated}/{key}{end}"] for end in ("", "_low", "_high")))
        for key in ("f1_macro", "f1_lost")
    )
    is_file = row["file"] != "checkpoint"
    worst = f"{one_line(row['worst_class'], 20)}{gap}{row['worst_class_change']:+.3f}" if is_file else ""
    return [f1, lost if is_file else "", worst, f"{row['score']:.3f}"]


def write_artifacts(folder: Path, report: Mapping[str, Any], rows: Sequence[Row]) -> list[Path]:
    """Write export.json (the whole report) and export.csv (one row per file), and return their paths."""
    classes = dict.fromkeys(key for row in rows for key in row if "/f1/" in key)
    return [write_json(folder / "export.json", report), write_csv(folder / "export.csv", rows, [*COLUMNS, *classes])]
