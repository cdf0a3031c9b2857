"""HTML leaderboard: compare runs on one page.

python -m reports.html.leaderboard runs/sweeps/A runs/sweeps/B --out comparison/leaderboard.html
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.html.charts import curve_chart, pareto_chart
from reports.html.engine import write_html
from reports.html.table import classes, facts, heat, table
from reports.leaderboard import notes
from reports.ranking import averaged_over, axes, group_seeds, labels, rank
from reports.results import Row, failed, gather_all, one_line, overrides
from reports.run_folder import read_config, read_curves, read_error, read_mistakes, read_predictions

IMAGE_BYTES = 6_000_000  # base64 text of all images on one page
KEYS = 40  # columns in the table of config differences, at most
MOST_CELLS = 30  # classes; a larger confusion matrix becomes a list of the most frequent confusions
PANELS = {"macro F1": "val/f1_macro", "validation loss": "val/loss", "training loss": "train/loss"}
OPEN = 10  # runs whose details are plain markup; the others are compressed, so that the page opens faster
LOOKS = 8  # best runs, each with its own colour and dash pattern


def write_page(rows: Sequence[Row], path: Path, root: Path | None = None, title: str = "") -> Path:
    """Write the page; returns `path`.

    Args:
        rows: Rows of `reports.results.gather`, or any flat rows; a missing key leaves its cell empty.
        path: HTML file.
        root: Folder that the rows' `folder` is relative to; None: the folder of `path`.
        title: Heading; "" for the name of the folder.
    """
    root = path.parent if root is None else root
    values = contents(rows, root)
    return write_html(path, "leaderboard.html.jinja", values, title or root.resolve().name, script="page.js")


def contents(rows: Sequence[Row], root: Path) -> dict[str, Any]:
    """Variables of the template, as plain data."""
    ranked = rank(rows)
    grouped = rank(group_seeds(ranked))
    several = len(grouped) < len(ranked)
    runs = list(_runs(ranked, root))
    number_of = {run["folder"]: run["id"] for run, row in zip(runs, ranked, strict=True) if not row.get("file")}
    settings = [_setting(row, name, number_of) for row, name in zip(grouped, labels(grouped), strict=True)]
    done = [(row, setting) for row, setting in zip(grouped, settings, strict=True) if not failed(row)]
    shown = axes([row for row, _ in done])
    points = [
        {
            "cost": shown.point(row)[0],
            "value": shown.point(row)[1],
            "name": setting["name"],
            "tip": facts(row),
            **setting,
        }
        for row, setting in done
    ]
    names = classes(grouped)
    panels = {title: curve_chart({r["id"]: r["curves"].get(key, []) for r in runs}) for title, key in PANELS.items()}
    _limit_images(runs)
    return {
        "notes": notes(rows),
        "headline": _headline(ranked, settings),
        "tables": [(f"Mean ± standard deviation over {averaged_over(grouped)}", table(grouped), settings)] * several
        + [("Every run", table(ranked), runs)],
        "compared": shown,
        "pareto": pareto_chart(points),
        "panels": {title: panel for title, panel in panels.items() if panel},
        "runs": runs,
        "classes": names,
        "heat": [(setting, cells) for (_, setting), cells in zip(done, heat([r for r, _ in done], names), strict=True)],
        "settings": _differing(settings, {run["id"]: run["config"] for run in runs}),
        "looks": LOOKS,
        "open": OPEN,
    }


def _runs(ranked: Sequence[Row], root: Path) -> Iterator[dict[str, Any]]:
    for i, (row, name) in enumerate(zip(ranked, labels(ranked), strict=True), start=1):
        place = (
            "" if row.get("file") else str(row.get("folder") or "")
        )  # an exported file shows no details: they are those of its run
        folder = root / place
        curves = read_curves(folder) if place else {}
        known = row.get("classes")
        predictions = read_predictions(folder, [str(c) for c in known]) if place and isinstance(known, list) else None
        yield {
            "id": i, "run": i, "name": name, "folder": place, "failed": failed(row), "rank": row["rank"],
            "find": one_line(f"{name} {place}", 400).lower(), "facts": facts(row), "error": row.get("error") or "",
            "curves": curves, "charts": _charts(curves), "predictions": predictions,
            "confusions": _confusions(predictions.confusion, predictions.classes) if predictions else [],
            "matrix": predictions is not None and len(predictions.classes) <= MOST_CELLS,
            "mistakes": read_mistakes(folder) if place else [], "config": read_config(folder) if place else {},
            "trace": read_error(folder) if place and failed(row) else "",
            "overrides": " ".join(overrides(row)),
        }  # fmt: skip


def _charts(curves: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]], Any]]:
    """Curves of one run: a chart of losses and one of macro F1."""
    found = []
    for title, keys in (("loss", ("train/loss", "val/loss")), ("macro F1", ("val/f1_macro",))):
        there = {i: curves[key] for i, key in enumerate(keys) if curves.get(key)}
        if chart := curve_chart(there, 420, 230):
            found.append((title, [(keys[i], line) for i, line in chart["lines"].items()], chart))
    return found


def _confusions(matrix: list[list[int]], names: list[str]) -> list[tuple[str, str, int]]:
    wrong = {(a, b): n for a, row in enumerate(matrix) for b, n in enumerate(row) if a != b and n}
    return [(names[a], names[b], n) for (a, b), n in sorted(wrong.items(), key=lambda item: -item[1])[:12]]


def _setting(row: Row, name: str, number_of: Mapping[str, int]) -> dict[str, Any]:
    """Entry of one setting: its name and its first run."""
    folders = row.get("folders") or [row.get("folder") or ""]
    members = [number_of[str(folder)] for folder in folders if str(folder) in number_of]
    found = one_line(f"{name} {' '.join(map(str, folders))}", 400).lower()
    return {
        "name": name,
        "run": members[0] if members else 0,
        "find": found,
        "rank": row["rank"],
        "failed": failed(row),
    }


def _headline(ranked: Sequence[Row], settings: Sequence[Mapping[str, Any]]) -> str:
    done = sum(not failed(row) for row in ranked)
    count = f"{len(ranked)} run{'s' * (len(ranked) != 1)}"
    if len(settings) < len(ranked):
        count += f" of {len(settings)} setting{'s' * (len(settings) != 1)}"
    if not done:
        return f"{count}; none has a result"
    key = ranked[0].get("ranked_by", "macro F1")
    return f"{count}; first by {key}: {settings[0]['name']}"


def _differing(settings: Sequence[Mapping[str, Any]], configs: Mapping[int, dict[str, str]]) -> dict[str, Any]:
    """Config keys whose values differ between runs; keys that change together share a column."""
    shown = [(setting, configs.get(setting["run"], {})) for setting in settings]
    shown = [(setting, config) for setting, config in shown if config]
    keys = list(dict.fromkeys(key for _, config in shown for key in config if key.split(".")[-1] != "seed"))
    columns: dict[tuple[int, ...], list[str]] = {}
    for key in keys:
        values = [config.get(key) for _, config in shown]
        pattern = tuple(map(values.index, values))  # equal for keys that change together
        if any(pattern):
            columns.setdefault(pattern, []).append(key)
    order = sorted(columns, key=lambda pattern: -len(set(pattern)))[:KEYS] if len(columns) > KEYS else list(columns)
    heads = [(columns[pattern][0], columns[pattern][1:]) for pattern in order]
    body = [(setting, [config.get(head) for head, _ in heads]) for setting, config in shown]
    return {"heads": heads, "rows": body, "left_out": len(columns) - len(order)}


def _limit_images(runs: Sequence[dict[str, Any]]) -> None:
    """Limit the images of the page: keep the first mistake of every run, then the second of every run, and so on."""
    kept, left = [0] * len(runs), IMAGE_BYTES
    for turn in range(max((len(run["mistakes"]) for run in runs), default=0)):
        for i, run in enumerate(runs):
            if turn < len(run["mistakes"]) and kept[i] == turn:
                left -= sum(len(run["mistakes"][turn][key] or "") for key in ("image", "map"))
                if left < 0:
                    break
                kept[i] += 1
        if left < 0:
            break
    for run, count in zip(runs, kept, strict=True):
        run["all_mistakes"], run["mistakes"] = len(run["mistakes"]), run["mistakes"][:count]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m reports.html.leaderboard", description="Compare runs on one HTML page."
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="folder of a run, of a sweep, or a parent of these"
    )
    parser.add_argument("--out", type=Path, help="HTML file (default: leaderboard.html in the first DIR)")
    given = parser.parse_args(arguments)
    try:
        rows = gather_all([folder.resolve() for folder in given.folders])
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    if not rows:
        print(f"no metrics.json found in {', '.join(map(str, given.folders))}: give folders of runs", file=sys.stderr)
        return 2
    out = given.out or given.folders[0] / "leaderboard.html"
    print(write_page(rows, out, Path(), title=" + ".join(folder.resolve().name for folder in given.folders)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
