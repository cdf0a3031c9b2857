"""What a sweep leaves for people: its page, and, where its jobs wrote to W&B, one run with the leaderboard."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    """Write leaderboard.html, and a W&B run "sweep" if a job has a W&B run; returns the paths of files for people.

    Args:
        rows: What `reports.results.gather(folder)` returned.
        folder: The sweep's folder.
    """
    page = write_page(rows, folder / "leaderboard.html")
    jobs = [folder / str(row["folder"]) for row in rows if row.get("folder")]
    used = next((job for job in jobs if (job / "wandb").is_dir()), None)
    if used is not None:
        log_sweep(rows, folder, read_config(used))
    return [page]


def log_sweep(rows: Sequence[Row], folder: Path, config: dict[str, str]) -> None:
    """Log a run of job type "sweep", in the group of its jobs: tables `leaderboard` (every run) and `pareto`.

    `pareto` has a row a setting: mean over seeds of latency and macro F1, and whether nothing beats it on both. The
    summary has the best setting, its score, F1 and latency, and how many runs there were and failed.

    Args:
        rows: One a run.
        folder: The sweep's folder; W&B's files go into it.
        config: Flat config of one of the jobs, for project and entity.
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
    plain = {key: value for key, value in summary.items() if not isinstance(value, float) or math.isfinite(value)}
    run.summary.update(plain)
    logger.finish()


def _table(ranked: Sequence[Row]) -> Any:
    import wandb

    table = wandb.Table(columns=list(COLUMNS), allow_mixed_types=True)
    for row, told in zip(ranked, differences(ranked), strict=True):
        known = {
            **row,
            "model": model(row),
            "setting": told,
            "seeds": str(row.get("seed", "")),
            "test/f1_macro": f1_macro(row),
        }
        table.add_data(*(_plain(known.get(column)) for column in COLUMNS))
    return table


def _pareto(grouped: Sequence[Row]) -> Any:
    import wandb

    table = wandb.Table(columns=["model", "setting", "latency_ms", "f1_macro", "score", "on_front"])
    costs, values = [number(row, "latency_ms") for row in grouped], [f1_macro(row) for row in grouped]
    best = set(front(costs, values))
    for i, (row, told) in enumerate(zip(grouped, differences(grouped), strict=True)):
        if math.isfinite(costs[i]) and math.isfinite(values[i]):
            table.add_data(model(row), told, costs[i], values[i], _plain(number(row, "score")), i in best)
    return table


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
