"""HTML leaderboard: compare runs on one page.

python -m reports.html.leaderboard runs/sweeps/A runs/sweeps/B --out comparison/leaderboard.html
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.html.charts import curve_chart, pareto_chart
from reports.html.compare import comparison
from reports.html.conditions import conditions, ranked_by
from reports.html.config_table import differing
from reports.html.engine import write_html
from reports.html.images import pool_images
from reports.html.parallel import parallel_chart
from reports.html.row_texts import tooltip
from reports.html.runs import LOOKS, read_runs
from reports.html.table import classes, heat, short_labels, table
from reports.leaderboard import notes, rules
from reports.ranking import averaged_over, axes, group_seeds, labels, rank
from reports.results import Row, f1_by_class, failed, gather_all, one_line, overrides
from reports.run_folder import read_importances

PANELS = {"macro F1": "val/f1_macro", "validation loss": "val/loss", "training loss": "train/loss"}
OPEN = 10  # runs whose details are plain markup; other details are compressed, so that the page opens faster
SCRIPTS = ("table.js", "filter.js", "charts.js", "runs.js", "compare.js")


def write_page(rows: Sequence[Row], path: Path, root: Path | None = None, title: str = "") -> Path:
    """Write the page, and return `path`.

    Args:
        rows: Rows of `reports.results.gather`, or any flat rows. A missing key gives an empty cell.
        path: HTML file.
        root: Folder that `folder` of the rows is relative to; None for the folder of `path`.
        title: Heading; "" for the name of `root`.
    """
    root = path.parent if root is None else root
    values = contents(rows, root, path.parent)
    return write_html(path, "leaderboard.html.jinja", values, title or root.resolve().name, scripts=SCRIPTS)


def contents(rows: Sequence[Row], root: Path, page: Path | None = None) -> dict[str, Any]:
    """Return the variables of the template.

    Args:
        rows: As in `write_page`.
        root: As in `write_page`.
        page: Folder of the page, which links are relative to; None for `root`.
    """
    ranked = rank(rows)
    grouped = rank(group_seeds(ranked))
    several = len(grouped) < len(ranked)
    runs = list(read_runs(ranked, root, page or root))
    images = pool_images(runs)
    number_of = {(run["folder"], row.get("file")): run["id"] for run, row in zip(runs, ranked, strict=True)}
    checkpoints = {run["folder"]: run["id"] for run in runs if not run["exported"]}
    sweeps = dict.fromkeys((root / run["folder"]).parent for run in runs if run["folder"])
    settings = [_setting(row, name, number_of) for row, name in zip(grouped, labels(grouped), strict=True)]
    done = [(row, setting) for row, setting in zip(grouped, settings, strict=True) if not failed(row)]
    names, compared = classes(grouped), axes([row for row, _ in done])
    shown = zip(done, short_labels([setting["name"] for _, setting in done]), strict=True)
    points = [
        {**s, "cost": cost, "value": f1, "short": name} for (r, s), name in shown for cost, f1 in [compared.point(r)]
    ]
    by_class = [(row, setting) for row, setting in done if f1_by_class(row)]
    panels = {title: curve_chart({r["id"]: r["curves"].get(key, []) for r in runs}) for title, key in PANELS.items()}
    return {
        "notes": notes(rows),
        "headline": _headline(ranked, settings),
        "conditions": conditions(ranked),
        "rules": rules(rows),
        "tables": [(f"Mean ± standard deviation over {averaged_over(grouped)}", table(grouped), settings)] * several
        + [("Every run", table(ranked), runs)],
        "pareto": {
            "wide": pareto_chart(points, longest=40),
            "narrow": pareto_chart(points, 380, 400, longest=34, front_only=True),
        },
        "compared": compared,
        "parallel": parallel_chart([row for row, _ in done], [setting for _, setting in done]),
        "importances": [part for sweep in sweeps for part in _importances(sweep)],
        "panels": {title: panel for title, panel in panels.items() if panel},
        "runs": runs,
        "checkpoints": checkpoints,
        "images": images,
        "comparison": comparison(runs),
        "classes": names,
        "heat": list(zip([s for _, s in by_class], heat([row for row, _ in by_class], names), strict=True)),
        "settings": differing(settings, {run["id"]: run["config"] for run in runs}),
        "curves": sum(bool(run["curves"]) for run in runs),
        "looks": LOOKS,
        "open": OPEN,
    }


def _importances(sweep: Path) -> list[tuple[str, list[tuple[str, float]]]]:
    """Return each metric of a search with the importance of the settings for it, the largest first."""
    found = read_importances(sweep).items()
    return [(metric, sorted(shares.items(), key=lambda item: -item[1])) for metric, shares in found]


def _setting(row: Row, name: str, number_of: Mapping[tuple[str, Any], int]) -> dict[str, Any]:
    """Return the entry of one setting: its name, the id of its first run, and texts."""
    folders = row.get("folders") or [row.get("folder") or ""]
    places = [(str(folder), row.get("file")) for folder in folders]
    members = [number_of[place] for place in places if place in number_of]
    found = one_line(f"{name} {' '.join(map(str, folders))} {' '.join(overrides(row))}", 900).lower()
    return {
        "name": name,
        "run": members[0] if members else 0,
        "find": found,
        "rank": row["rank"],
        "failed": failed(row),
        "tip": tooltip(row),
    }


def _headline(ranked: Sequence[Row], settings: Sequence[Mapping[str, Any]]) -> str:
    done = sum(not failed(row) for row in ranked)
    files = sum(bool(row.get("file")) for row in ranked)
    parts = [f"{count} {what}{'s' * (count != 1)}" for count, what in (
        (len(ranked) - files, "run"), (files, "exported file"),
    ) if count]  # fmt: skip
    text = " and ".join(parts)
    if len(settings) < len(ranked):
        text += f", {len(settings)} after averaging seeds and folds"
    if not done:
        return f"{text}; none has a result"
    return f"{text}; first by {ranked_by(ranked[0])}: {settings[0]['name']}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page from the command line, and return the exit code."""
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
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not rows:
        print(f"error: no metrics.json in {', '.join(map(str, given.folders))}: give folders of runs", file=sys.stderr)
        return 2
    out = given.out or given.folders[0] / "leaderboard.html"
    print(write_page(rows, out, Path(), title=" + ".join(folder.resolve().name for folder in given.folders)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
