"""Leaderboard of runs: terminal table, CSV, JSON, Markdown and a Pareto chart.

python -m reports.leaderboard runs/sweeps/A runs/sweeps/B --out comparison
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from litesort.io import write_csv, write_json, write_text
from reports.figures import pareto
from reports.ranking import averaged_over, axes, differences, group_seeds, labels, rank
from reports.results import (
    Row,
    f1_by_class,
    failed,
    fold,
    gather_all,
    model,
    number,
    one_line,
    runs_as,
    stage,
)

WRAPPED = {"model": 18, "setting": 20}  # columns that wrap on a narrow terminal, and their least width, characters


class Column(NamedTuple):
    """Column of the table.

    Attributes:
        title: Heading.
        text: Text of a row in this column.
        removal: Order of removal on a narrow terminal, the highest number first; 0 for a column that always stays.
    """

    title: str
    text: Callable[[Row], str]
    removal: int = 0


def print_table(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print the ranking, reasons of failures, and the rules. With several seeds or folds, a table of means is first."""
    console = console or Console()
    grouped = group_seeds(rows)
    if len(grouped) < len(rows):
        console.print(_table(rank(grouped), _mean_title(grouped), console))
    ranked = rank(rows)
    console.print(_table(ranked, "Leaderboard", console))
    settings = differences(ranked)
    for row, setting in zip(ranked, settings, strict=True):
        if failed(row):
            name = "  ".join(part for part in (model(row), setting) if part)
            console.print(Text(f"{_failure(row)}: {name}: {one_line(row.get('error') or 'no reason given')}", "red"))
    for line in rules(rows):
        console.print(Text(line, style="dim"))
    for note in notes(rows):
        console.print(Text(note, style="yellow"))


def write(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write leaderboard.csv and .json (every run, full precision), .md, and .png if a run has time and macro F1.

    Returns:
        Paths of the written files.
    """
    ranked = rank(rows)
    flat = [key for row in ranked for key, value in row.items() if not _nested(value)]
    first = [
        "rank", "status", "error", "name", "model", "overrides", "seed", "origin", "ranked_by", "rank_score",
        "val/score", "score", "val/f1_macro", "test/f1_macro",
    ]  # fmt: skip
    columns = [*first, *sorted(set(flat) - set(first))]
    written = [
        write_csv(folder / "leaderboard.csv", ranked, columns),
        write_json(folder / "leaderboard.json", ranked),
        write_text(folder / "leaderboard.md", markdown(rows)),
    ]
    folded = group_seeds([row for row in ranked if not failed(row)])
    shown = axes(folded)
    points = [(name, *shown.point(row)) for row, name in zip(folded, labels(folded), strict=True)]
    if any(math.isfinite(time) and math.isfinite(f1) for _, time, f1 in points):
        written.append(pareto(points, folder / "leaderboard.png", time=shown.time_label, f1=shown.f1_label))
    return written


def markdown(rows: Sequence[Row]) -> str:
    """Return the ranking as Markdown tables. With several seeds or folds, a table of means comes first."""
    grouped = group_seeds(rows)
    parts = ["# Leaderboard\n"]
    if len(grouped) < len(rows):
        parts += [f"## {_mean_title(grouped)}\n", _markdown_table(rank(grouped)), "## Every run\n"]
    lines = [*rules(rows), *notes(rows)]
    return "\n".join([*parts, _markdown_table(rank(rows)), *(f"{_escaped(line)}\n" for line in lines)])


def rules(rows: Sequence[Row]) -> list[str]:
    """Return lines that explain how the rows are ranked and what their times are relative to."""
    done = [row for row in rank(rows) if not failed(row)]
    kinds = [str(row.get("ranked_by", "macro F1")) for row in done if row["rank"] is not None]
    if not kinds:
        return []
    texts = {
        "val/score": "Ranked by val/score, the score on validation images; lower is better.",
        "score": "Ranked by the score of the evaluated images, because no row has a val/score; lower is better.",
        "macro F1": "Ranked by macro F1, because no row has a score.",
    }
    found = [texts[kinds[0]]]
    if kinds[0] == "val/score" and math.isfinite(max(number(row, "test/f1_macro") for row in done)):
        found[0] += " The test columns evaluate the choice."
    later = [kind for kind in dict.fromkeys(kinds) if kind != kinds[0]]
    lacking = "val/score" if kinds[0] == "val/score" else "score"
    if later:
        by = {"score": "the score of their evaluated images", "macro F1": "macro F1"}
        found.append(f"Rows without {lacking} follow, ranked by {', then '.join(by[kind] for kind in later)}.")
    shown = axes(done)
    if shown.time != "latency_ms":
        found.append(f"× faster: the inverse of the {shown.time_label}.")
    if any(row.get("file") for row in done):
        if shown.time == "ratio_same_runtime":
            found.append(
                "The ranking score of an exported file uses this time; its own score uses the time relative to eager."
            )
    elif any(runs_as(row) == "eager" for row in done):
        found.append(
            "Times are those of eager PyTorch. Exported files may rank differently: export=onnx times them too."
        )
    return found


def notes(rows: Sequence[Row]) -> list[str]:
    """Return warnings about the ranking: failed and pruned runs, and rows that are not comparable."""
    found = []
    for what, part in (("runs", [r for r in rows if "file" not in r]), ("files", [r for r in rows if "file" in r])):
        pruned = sum(row.get("status") == "pruned" for row in part)
        if broken := sum(failed(row) for row in part) - pruned:
            found.append(f"{broken} of {len(part)} {what} failed.")
        if pruned:
            found.append(f"{pruned} of {len(part)} {what} were pruned by the search.")
    return found + list(_incomparable([row for row in rows if not failed(row)]))


def _incomparable(done: Sequence[Row]) -> Iterator[str]:
    kinds = sorted({str(row["score_name"]) for row in done if row.get("score_name")})
    if len(kinds) > 1:
        yield f"Scores of different kinds ({', '.join(kinds)}) are not comparable."
    used = [row["score_parameters"] for row in done if isinstance(row.get("score_parameters"), dict)]
    for key in dict.fromkeys(key for parameters in used for key in parameters):
        values = sorted({one_line(parameters.get(key)) for parameters in used})
        if len(values) > 1 and len(kinds) < 2:
            yield f"Scores with different settings are not comparable: score.{key} is {', '.join(values)}."
    for key, what in (("reference", "references"), ("threads", "numbers of threads")):
        values = sorted({one_line(row[key]) for row in done if row.get(key) is not None})
        if len(values) > 1:
            yield f"Times of different {what} are not comparable: {', '.join(values)}."
    machines = {one_line(row["machine"].get("cpu")) for row in done if isinstance(row.get("machine"), dict)}
    if len(machines) > 1:
        yield f"Times were measured on different machines: {', '.join(sorted(machines))}."
    if any(row.get("unsteady") for row in done):
        yield "~: the measurement did not settle; measure again when the machine is idle."


def columns(ranked: Sequence[Row], reasons: bool = True) -> list[Column]:
    """Return the columns that have a value in at least one row.

    Args:
        ranked: Ranked rows.
        reasons: Whether the setting of a failed row contains the reason.
    """
    exported = any(row.get("file") for row in ranked)
    settings = {id(row): difference for row, difference in zip(ranked, differences(ranked), strict=True)}
    time = axes(ranked).time

    def setting(row: Row) -> str:
        failure = _failure(row) if failed(row) else ""
        if failure and reasons:
            failure += f": {one_line(row.get('error') or 'no reason given')}"
        return "  ".join(part for part in (settings[id(row)], failure) if part)

    wanted = [
        Column("#", lambda row: "–" if row["rank"] is None else str(row["rank"])),
        Column("model", model),
        Column("setting", setting),
        Column("runs as", runs_as, removal=0 if exported else 3),
        Column("seed", lambda row: _several(row, "seeds", row.get("seed", "")), removal=2),
        Column("fold", lambda row: _several(row, "folds", "" if fold(row) is None else fold(row)), removal=2),
        Column("score ↓", lambda row: _measured(row, ".4f", "rank_score"), removal=2 if exported else 0),
        Column("F1 val", lambda row: _measured(row, ".4f", "val/f1_macro"), removal=1),
        Column("F1 test", lambda row: _measured(row, ".4f", f"{stage(row)}/f1_macro") if stage(row) != "val" else ""),
        Column("weakest class", _weakest, removal=7),
        Column("accuracy", lambda row: _measured(row, ".4f", f"{stage(row)}/accuracy_micro"), removal=9),
        Column(
            "ms",
            lambda row: _measured(row, ".2f", "latency_ms") + " ~" * bool(row.get("unsteady")),
            removal=3 if exported else 0,
        ),
        Column(
            "× faster", lambda row: _faster(row, time) if time != "latency_ms" else "", removal=0 if exported else 6
        ),
        Column("× eager", lambda row: _faster(row, "ratio") if time != "ratio" and exported else "", removal=5),
        Column("front", lambda row: "●" if row.get("front") else "", removal=6),
        Column("MB", lambda row: _measured({"bytes": number(row, "bytes") / 1e6}, ".1f", "bytes"), removal=11),
        Column("params M", lambda row: _millions(row, "params"), removal=10),
        Column("MACs M", lambda row: _millions(row, "macs"), removal=8),
        Column("weights", lambda row: one_line(row.get("origin") or "", longest=24), removal=4),
        Column("trained in", lambda row: duration(number(row, "train_seconds")), removal=5),
    ]
    return [column for column in wanted if any(column.text(row) for row in ranked)]


def _failure(row: Row) -> str:
    return "pruned" if row.get("status") == "pruned" else "failed"


def duration(seconds: float) -> str:
    """Return a duration as readable text; empty for NaN.

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
    shown = columns(ranked, reasons=False)
    while _min_width(shown, ranked) > console.width and any(column.removal for column in shown):
        shown.remove(max(shown, key=lambda column: column.removal))
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for column in shown:
        free = column.title in ("model", "setting", "weights")
        table.add_column(
            column.title,
            justify="left" if free else "right",
            overflow="fold",
            no_wrap=not free,
        )
    for row in ranked:
        style = "red" if failed(row) else "bold green" if row["rank"] == 1 else ""
        table.add_row(*(Text(column.text(row)) for column in shown), style=style)
    return table


def _min_width(shown: Sequence[Column], ranked: Sequence[Row]) -> int:
    widths = [max(len(text) for text in (column.title, *(column.text(row) for row in ranked))) for column in shown]
    least = [min(width, WRAPPED.get(column.title, width)) for column, width in zip(shown, widths, strict=True)]
    return sum(least) + 2 * (len(shown) - 1)


def _markdown_table(ranked: Sequence[Row]) -> str:
    shown = columns(ranked)
    lines = [[column.title for column in shown], ["---"] * len(shown)]
    lines += [[_escaped(column.text(row)) for column in shown] for row in ranked]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _escaped(text: str) -> str:
    for special in ("\\", "|", "`", "*", "<", "[", "]"):
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


def _faster(row: Row, key: str) -> str:
    """Return the speed relative to the reference."""
    ratio = number(row, key)
    return f"{1 / ratio:.1f}" if ratio > 0 else ""


def _several(row: Row, key: str, one: object) -> str:
    values = row.get(key)
    return " ".join(map(str, values)) if isinstance(values, list) else str(one)


def _mean_title(grouped: Sequence[Row]) -> str:
    return f"Mean ± standard deviation over {averaged_over(grouped)}"


def _weakest(row: Row) -> str:
    classes = f1_by_class(row)
    if not classes:
        return ""
    name = min(classes, key=lambda name: classes[name])
    return f"{one_line(name, longest=16)} {classes[name]:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the leaderboard from the command line, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m reports.leaderboard", description="Rank runs.")
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="folder of a run, of a sweep, or a parent of these"
    )
    parser.add_argument("--out", type=Path, help="output folder (default: the first DIR)")
    given = parser.parse_args(arguments)
    try:
        rows = gather_all(given.folders)
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not rows:
        print(f"error: no metrics.json in {', '.join(map(str, given.folders))}: give folders of runs", file=sys.stderr)
        return 2
    print_table(rows)
    for path in write(rows, given.out or given.folders[0]):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
