"""Dashboards of a sweep: the HTML leaderboard, and a W&B run with the leaderboard if its jobs used W&B."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from litesort.io import plain
from reports.html.leaderboard import write_page
from reports.pareto import front
from reports.ranking import differences, group_seeds, rank
from reports.results import Row, f1_macro, failed, model, number
from reports.run_folder import read_config

COLUMNS = (
    "rank", "status", "model", "setting", "seeds", "origin", "score", "test/f1_macro", "latency_ms", "params", "macs",
    "bytes", "train_seconds", "folder", "error",
)  # fmt: skip


def write_dashboards(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write leaderboard.html, and a W&B run of type "sweep" if a job has a W&B run; returns the paths of pages.

    Args:
        rows: Rows of `reports.results.gather(folder)`.
        folder: Folder of the sweep.
    """
    page = write_page(rows, folder / "leaderboard.html")
    jobs = [folder / str(row["folder"]) for row in rows if row.get("folder")]
    used = next((job for job in jobs if (job / "wandb").is_dir()), None)
    if used is not None:
        log_sweep(rows, folder, read_config(used))
    return [page]


def log_sweep(rows: Sequence[Row], folder: Path, config: dict[str, str]) -> None:
    """Log a run of job type "sweep", in the group of its jobs: tables `leaderboard` (every run) and `pareto`.

    `pareto` has one row per setting: latency and macro F1, averaged over seeds, and whether the setting is on the
    Pareto front. The summary holds the best setting, its score, F1 and latency, and the numbers of runs and failures.

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
    run.log({"leaderboard": _table(ranked), "pareto": (pareto := _pareto(grouped))})
    run.log({"pareto_plot": wandb.plot.scatter(pareto, "latency_ms", "f1_macro", title="Macro F1 against latency")})
    summary: dict[str, Any] = {"runs": len(rows), "failed": sum(map(failed, rows))}
    if grouped:
        summary["best/model"] = model(grouped[0])
        for key in ("score", "latency_ms", "macs", "bytes", "params"):
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
            "seeds": str(row.get("seed", "")),
            "test/f1_macro": f1_macro(row),
        }
        table.add_data(*(plain(known.get(column)) for column in COLUMNS))
    return table


def _pareto(grouped: Sequence[Row]) -> Any:
    import wandb

    table = wandb.Table(columns=["model", "setting", "latency_ms", "f1_macro", "score", "on_front"])
    costs, values = [number(row, "latency_ms") for row in grouped], [f1_macro(row) for row in grouped]
    best = set(front(costs, values))
    for i, (row, setting) in enumerate(zip(grouped, differences(grouped), strict=True)):
        if math.isfinite(costs[i]) and math.isfinite(values[i]):
            table.add_data(model(row), setting, costs[i], values[i], plain(number(row, "score")), i in best)
    return table
