"""Leaderboard of runs: terminal table, CSV, JSON, Markdown and a Pareto chart.

python -m reports.leaderboard runs/sweeps/A runs/sweeps/B --out comparison
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from litesort.io import write_csv, write_json, write_text
from reports.figures import pareto
from reports.ranking import differences, group_seeds, rank, time_key
from reports.results import Row, exported_as, f1_by_class, f1_macro, failed, gather, model, number, one_line


class Column(NamedTuple):
    """Column of the table.

    Attributes:
        title: Heading.
        text: Text of a row in this column.
        leaves: Order of removal on a narrow terminal, the highest number first; 0: never removed.
    """

    title: str
    text: Callable[[Row], str]
    leaves: int = 0


def print_table(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print the ranking; with several seeds, a table of means and standard deviations comes first."""
    console = console or Console()
    grouped = group_seeds(rows)
    if len(grouped) < len(rows):
        console.print(_table(rank(grouped), "Mean ± standard deviation over seeds", console))
    console.print(_table(rank(rows), "Leaderboard", console))
    for note in notes(rows):
        console.print(Text(note, style="yellow"))


def write(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write leaderboard.csv and .json (every run, full precision), .md, and .png if a run has latency and macro F1.

    Returns:
        Paths of the written files.
    """
    ranked = rank(rows)
    flat = [key for row in ranked for key, value in row.items() if not _nested(value)]
    first = ["rank", "status", "error", "name", "model", "overrides", "seed", "origin", "score", "test/f1_macro"]
    columns = [*first, *sorted(set(flat) - set(first))]
    written = [
        write_csv(folder / "leaderboard.csv", ranked, columns),
        write_json(folder / "leaderboard.json", ranked),
        write_text(folder / "leaderboard.md", markdown(rows)),
    ]
    folded = group_seeds([row for row in ranked if not failed(row)])
    exported, key = any(row.get("file") for row in folded), time_key(folded)
    time = {"time": "time per image relative to the reference"} if exported and key == "ratio" else {}
    points = [
        (_point_name(row, difference), number(row, key if time else "latency_ms"), f1_macro(row))
        for row, difference in _with_differences(folded)
    ]
    if any(math.isfinite(latency) and math.isfinite(f1) for _, latency, f1 in points):
        written.append(pareto(points, folder / "leaderboard.png", **time))
    return written


def markdown(rows: Sequence[Row]) -> str:
    """Ranking as Markdown tables; with several seeds, a table of means and standard deviations comes first."""
    grouped = group_seeds(rows)
    parts = ["# Leaderboard\n"]
    if len(grouped) < len(rows):
        parts += ["## Mean ± standard deviation over seeds\n", _markdown_table(rank(grouped)), "## Every run\n"]
    parts += [_markdown_table(rank(rows)), *(f"{_escaped(note)}\n" for note in notes(rows))]
    return "\n".join(parts)


def notes(rows: Sequence[Row]) -> list[str]:
    """Warnings about the ranking: failed and pruned runs, and scores that are not comparable."""
    found = []
    for what, part in (("runs", [r for r in rows if "file" not in r]), ("files", [r for r in rows if "file" in r])):
        pruned = sum(row.get("status") == "pruned" for row in part)
        if broken := sum(failed(row) for row in part) - pruned:
            found.append(f"{broken} of {len(part)} {what} failed.")
        if pruned:
            found.append(f"{pruned} of {len(part)} {what} were pruned by the search.")
    kinds = sorted({str(row["score_name"]) for row in rows if row.get("score_name")})
    if len(kinds) > 1:
        found.append(f"Scores of different kinds ({', '.join(kinds)}) are not comparable.")
    return found


def columns(ranked: Sequence[Row]) -> list[Column]:
    """Columns that hold a value for at least one row."""
    exported = any(row.get("file") for row in ranked)
    settings = {id(row): difference for row, difference in _with_differences(ranked)}

    def setting(row: Row) -> str:
        how = "stopped" if row.get("status") == "pruned" else "failed"
        reason = f"{how}: {one_line(row.get('error') or 'no reason given')}" if failed(row) else ""
        return "  ".join(part for part in (settings[id(row)], reason) if part)

    wanted = [
        Column("#", lambda row: "–" if row["rank"] is None else str(row["rank"])),
        Column("model", model, leaves=10 * exported),  # the setting of an exported file names the model too
        Column("setting", setting),
        Column("file", lambda row: one_line(row.get("file") or ("checkpoint" if exported else ""), longest=40)),
        Column("seed", lambda row: " ".join(str(seed) for seed in row.get("seeds", [row.get("seed", "")])), leaves=2),
        Column("score ↓", lambda row: _measured(row, ".4f", "score")),
        Column("F1 macro", lambda row: _measured(row, ".4f", "test/f1_macro", "val/f1_macro")),
        Column("weakest class", _weakest, leaves=5),
        Column("accuracy", lambda row: _measured(row, ".4f", "test/accuracy_micro", "val/accuracy_micro"), leaves=7),
        Column("latency ms", lambda row: _measured(row, ".2f", "latency_ms"), leaves=1 * exported),
        Column("× faster", lambda row: _faster(row, exported)),
        Column("front", lambda row: "●" if exported and row.get("front") else ""),
        Column("MB", lambda row: _measured({"bytes": number(row, "bytes") / 1e6}, ".1f", "bytes"), leaves=9),
        Column("params M", lambda row: _millions(row, "params"), leaves=8),
        Column("MACs M", lambda row: _millions(row, "macs"), leaves=6),
        Column("weights", lambda row: one_line(row.get("origin") or "", longest=24), leaves=3),
        Column("trained in", lambda row: duration(number(row, "train_seconds")), leaves=4),
    ]
    return [column for column in wanted if any(column.text(row) for row in ranked)]


def duration(seconds: float) -> str:
    """Duration as readable text; empty for NaN.

    Example:
        >>> duration(3.21), duration(200), duration(7384)
        ('3.2 s', '3:20 min', '2:03 h')
    """
    if not math.isfinite(seconds):
        return ""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02} h"


def _table(ranked: Sequence[Row], title: str, console: Console) -> Table:
    shown = columns(ranked)
    while _least_width(shown, ranked) > console.width and any(column.leaves for column in shown):
        shown.remove(max(shown, key=lambda column: column.leaves))
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for column in shown:
        free = column.title in ("model", "setting", "weights")
        table.add_column(column.title, justify="left" if free else "right", overflow="fold", no_wrap=not free)
    for row in ranked:
        style = "red" if failed(row) else "bold green" if row["rank"] == 1 else ""
        table.add_row(*(Text(column.text(row)) for column in shown), style=style)
    return table


def _least_width(shown: Sequence[Column], ranked: Sequence[Row]) -> int:
    widths = [max(len(text) for text in (column.title, *(column.text(row) for row in ranked))) for column in shown]
    # Only the setting wraps, to at least 24 characters.
    return sum(min(w, 24) if c.title == "setting" else w for c, w in zip(shown, widths, strict=True)) + 2 * len(shown)


def _markdown_table(ranked: Sequence[Row]) -> str:
    shown = columns(ranked)
    lines = [[column.title for column in shown], ["---"] * len(shown)]
    lines += [[_escaped(column.text(row)) for column in shown] for row in ranked]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _escaped(text: str) -> str:
    for special in ("\\", "|", "`", "*", "<"):
        text = text.replace(special, "\\" + special)
    return text


def _nested(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(part, dict | list) for part in value))


def _measured(row: Row, form: str, *keys: str) -> str:
    key = next((key for key in keys if math.isfinite(number(row, key))), None)
    if key is None:
        return ""
    spread = number(row, f"{key}_spread")
    return f"{number(row, key):{form}}" + (f" ±{spread:{form}}" if math.isfinite(spread) else "")


def _millions(row: Row, key: str) -> str:
    value = number(row, key)
    return f"{value / 1e6:.3g}" if 0 <= value < 1e8 else f"{value / 1e6:.0f}" if math.isfinite(value) else ""


def _faster(row: Row, exported: bool) -> str:
    """Speed relative to the reference; empty without exported files."""
    ratio = number(row, "ratio")
    return f"{1 / ratio:.1f}" if exported and ratio > 0 else ""


def _weakest(row: Row) -> str:
    classes = f1_by_class(row)
    if not classes:
        return ""
    name = min(classes, key=lambda name: classes[name])
    return f"{one_line(name, longest=16)} {classes[name]:.2f}"


def _with_differences(rows: Sequence[Row]) -> list[tuple[Row, str]]:
    return list(zip(rows, differences(rows), strict=True))


def _point_name(row: Row, difference: str) -> str:
    return exported_as(row) or one_line(f"{model(row)} {difference}", longest=40)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the leaderboard from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m reports.leaderboard", description="Rank runs.")
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="folder of a run, of a sweep, or a parent of these"
    )
    parser.add_argument("--out", type=Path, help="output folder (default: the first DIR)")
    given = parser.parse_args(arguments)
    try:
        rows = [row | {"folder": str(folder / row["folder"])} for folder in given.folders for row in gather(folder)]
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    if not rows:
        print(f"no metrics.json found in {', '.join(map(str, given.folders))}: give folders of runs", file=sys.stderr)
        return 2
    print_table(rows)
    for path in write(rows, given.out or given.folders[0]):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
