"""Dashboards of a sweep: the HTML leaderboard, and a W&B run with the leaderboard if its jobs used W&B."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from litesort.io import plain
from reports.html.leaderboard import write_page
from reports.ranking import Axes, axes, differences, group_seeds, rank
from reports.results import Row, f1_macro, failed, model, number, runs_as
from reports.run_folder import read_config

COLUMNS = (
    "rank", "status", "model", "setting", "runs_as", "seeds", "origin", "rank_score", "val/score", "score",
    "val/f1_macro", "test/f1_macro", "latency_ms", "ratio", "ratio_same_runtime", "params", "macs", "bytes",
    "train_seconds", "folder", "error",
)  # fmt: skip


def write_dashboards(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write leaderboard.html, and log a W&B run of job type "sweep" if a job has a W&B run.

    Args:
        rows: Rows of `reports.results.gather(folder)`.
        folder: Folder of the sweep.

    Returns:
        Paths of the written pages.
    """
    page = write_page(rows, folder / "leaderboard.html")
    jobs = [folder / str(row["folder"]) for row in rows if row.get("folder")]
    wandb_job = next((job for job in jobs if (job / "wandb").is_dir()), None)
    if wandb_job is not None:
        log_sweep(rows, folder, read_config(wandb_job))
    return [page]


def log_sweep(rows: Sequence[Row], folder: Path, config: dict[str, str]) -> None:
    """Log a run of job type "sweep", in the group of its jobs: tables `leaderboard` (every run) and `pareto`.

    `pareto` has one row per setting: time and macro F1 as in `reports.ranking.axes`, averaged over seeds and folds, and
    whether the setting is on the Pareto front. The summary holds the best setting, its scores, F1 and times, and the
    numbers of runs and failures.

    Args:
        rows: One per run.
        folder: Folder of the sweep; W&B writes its files there.
        config: Flat config of one job, for project and entity.
    """
    import wandb

    from loggers.wandb import Wandb

    entity = config.get("logger.wandb.entity", "null")
    logger = Wandb(
        str(folder),
        project=config.get("logger.wandb.project", "litesort"),
        entity=None if entity == "null" else entity,
        name=folder.name,
        group=folder.name,
        job_type="sweep",
    )
    ranked, grouped = rank(rows), [row for row in rank(group_seeds(rows)) if not failed(row)]
    run = logger.experiment
    shown = axes(grouped)
    run.log({"leaderboard": _table(ranked), "pareto": (pareto := _pareto(grouped, shown))})
    title = f"{shown.f1_label} against {shown.time_label}".capitalize()
    run.log({"pareto_plot": wandb.plot.scatter(pareto, shown.time, "f1_macro", title=title)})
    summary: dict[str, Any] = {"runs": len(rows), "failed": sum(map(failed, rows))}
    if grouped:
        summary["best/model"] = model(grouped[0])
        keys = ("rank_score", "val/score", "score", "val/f1_macro", "latency_ms", "ratio", "ratio_same_runtime")
        for key in (*keys, "macs", "bytes", "params"):
            summary[f"best/{key}"] = number(grouped[0], key)
        summary["best/f1_macro"] = f1_macro(grouped[0])
    run.summary.update({key: value for key, value in plain(summary).items() if value is not None})
    logger.finish()


def _table(ranked: Sequence[Row]) -> Any:
    import wandb

    table = wandb.Table(columns=list(COLUMNS), allow_mixed_types=True)
    for row, setting in zip(ranked, differences(ranked), strict=True):
        known = {
            **row,
            "model": model(row),
            "setting": setting,
            "runs_as": runs_as(row),
            "seeds": str(row.get("seed", "")),
            "test/f1_macro": f1_macro(row),
        }
        table.add_data(*(plain(known.get(column)) for column in COLUMNS))
    return table


def _pareto(grouped: Sequence[Row], shown: Axes) -> Any:
    import wandb

    table = wandb.Table(columns=["model", "setting", "runs_as", shown.time, "f1_macro", "score", "on_front"])
    for row, setting in zip(grouped, differences(grouped), strict=True):
        time, f1 = shown.point(row)
        if math.isfinite(time) and math.isfinite(f1):
            score = plain(number(row, "rank_score"))
            table.add_data(model(row), setting, runs_as(row), time, f1, score, bool(row["front"]))
    return table
