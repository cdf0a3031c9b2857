"""Summary of one run on the terminal: quality, speed, size and written files."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reports.leaderboard import duration
from reports.results import f1_by_class, f1_macro, number, one_line, split_name, stage


def print_summary(
    metrics: Mapping[str, Any],
    files: Sequence[Path] = (),
    console: Console | None = None,
) -> None:
    """Print metrics.json of a run as a table, then the written files.

    Args:
        metrics: Flat metrics. Missing keys are left out. `latency` holds records of `deployment.latency.timer`.
        files: Paths to print, relative to the working folder where possible.
        console: Output; the terminal by default.
    """
    console = console or Console()
    table = Table(show_header=False, box=None)
    table.add_column("what", no_wrap=True, style="cyan")
    table.add_column("value", overflow="fold")
    for name, value in lines(metrics):
        table.add_row(Text(name), Text(value, style="bold" if name.strip() in ("macro F1", "score") else ""))
    console.print()
    console.print(Text(headline(metrics), style="bold"))
    console.print(table)
    if files:
        console.print(Text("files", style="bold"))
    for file in files:
        # No wrapping, so that a path can be copied.
        console.print(Text(f"  {shown_path(file)}"), soft_wrap=True)


def headline(metrics: Mapping[str, Any]) -> str:
    """Return model, weights, size and data in one line."""
    split = split_name(dict(metrics))
    origin = metrics.get("origin")
    weights = "from scratch" if origin == "scratch" else f"weights: {one_line(origin, 60)}" if origin else ""
    size = f"{metrics['size']} px" if metrics.get("size") else ""
    model = one_line(metrics.get("model") or metrics.get("name") or "model")
    data = f"{one_line(metrics['data'], 60)}, {split}" if metrics.get("data") else split
    return " · ".join(part for part in (model, weights, size, data) if part)


def lines(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and text of each row of the table. Missing values are left out."""
    row = dict(metrics)
    if math.isfinite(f1_macro(row)):
        yield "macro F1", f"{f1_macro(row):.4f}{_interval(row, f'{stage(row)}/f1_macro')}"
    for name, value in f1_by_class(row).items():
        yield f"  {one_line(name, 40)}", f"{value:.4f}  {'█' * round(20 * value)}"
    for name, key in (("accuracy", "accuracy_micro"), ("AUROC", "auroc_macro"), ("ECE", "ece")):
        value = number(row, f"{stage(row)}/{key}")
        if math.isfinite(value):
            yield name, f"{value:.4f}"
    yield from rejection_lines(row)
    for name, key in (("parameters", "params"), ("MACs", "macs")):
        value = number(row, key)
        if math.isfinite(value):
            yield name, f"{value / 1e6:,.2f} M"
    yield from latency_lines(metrics.get("latency") or ())
    if math.isfinite(number(row, "score")):
        yield "score", _score(metrics)
    if math.isfinite(number(row, "train_seconds")):
        pace = number(row, "images_per_second")
        yield "trained in", duration(number(row, "train_seconds")) + (f", {pace:,.0f} images/s" if pace == pace else "")


def latency_lines(records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield rows of the table for latency records: time, ratios to the references, and settings of the measurement."""
    clocks = {"model": "model only", "end_to_end": "file to class"}
    for record in records:
        reference, entries = record.get("reference"), record["entries"]
        # The first entry is the model; entries of references follow.
        name, entry = next(((name, entry) for name, entry in entries.items() if name != reference), (None, None))
        if name is None or entry is None:
            continue
        clock = clocks.get(record["clock"], record["clock"])
        text = f"{entry['median_ms']:.2f} ms"
        if "low_ms" in entry:
            text += f" ({entry['low_ms']:.2f} to {entry['high_ms']:.2f})"
        threads = f"{record['threads']} thread{'s' if record['threads'] != 1 else ''}"
        text += f", {clock}, batch {record['batch']}, {entry['device']}, {threads}"
        yield "latency", text + (": unsteady, measure again when the machine is idle" if entry.get("unsteady") else "")
        if entry.get("ratio"):
            side = f" at {entries[reference]['size']} px" if "size" in entries[reference] else ""
            yield "", f"{entry['ratio']:.3f} × {one_line(reference, 40)}{side}, eager"
            if entry.get("ratio_same_runtime") and entry.get("runtime") != "torch eager":
                yield "", f"{entry['ratio_same_runtime']:.3f} × the same in {one_line(entry['runtime'], 40)}, fp32"


def shown_path(path: Path) -> str:
    """Return a path relative to the working folder if it is inside, otherwise unchanged."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def rejection_lines(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield rows of the table about the rejection threshold: its target, and the evaluated images that it keeps."""
    target = number(row, "threshold_target")
    aim = f"{target:.0%} accuracy"
    if math.isfinite(threshold := number(row, "threshold")):
        yield "threshold", f"reject below confidence {threshold:.3f} for {aim}, chosen on validation images"
    elif row.get("threshold_note"):
        yield "threshold", f"none for {aim}: {one_line(row['threshold_note'])}"
    coverage, accuracy = (number(row, f"{stage(row)}/{key}") for key in ("coverage", "kept_accuracy"))
    if math.isfinite(coverage):
        right = f", {accuracy:.1%} of them right" if math.isfinite(accuracy) else ""
        yield "  kept", f"{coverage:.1%} of images{right}{_interval(row, f'{stage(row)}/kept_accuracy', '.1%')}"


def _interval(row: dict[str, Any], key: str, form: str = ".4f") -> str:
    """Return the 95 % interval of a value in brackets; "" without one."""
    low, high = number(row, f"{key}_low"), number(row, f"{key}_high")
    return f" (95 % {low:{form}} to {high:{form}})" if math.isfinite(low + high) else ""


def _score(metrics: Mapping[str, Any]) -> str:
    text = f"{metrics['score']:.4f}" + (f" ({one_line(metrics['score_name'])})" if metrics.get("score_name") else "")
    explained = one_line(metrics.get("score_explained") or "").partition(" = ")[2]
    return f"{text} = {explained}, lower is better" if explained else f"{text}, lower is better"
