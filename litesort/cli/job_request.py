"""Requests of jobs: the request file of a resumed sweep, the settings of a trial, and the keys of returned values."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from litesort.cli import resume
from litesort.io import write_json


def save_job_request(folder: Path, number: int, overrides: Sequence[str], config: dict[str, Any]) -> None:
    """Write the request of a job for a resumed sweep, and delete the results of a failed attempt.

    Args:
        folder: Folder of the job.
        number: Number of the job in its sweep.
        overrides: Overrides of the job.
        config: Config of the job, with interpolations.
    """
    row = resume.read(folder / "metrics.json") or {}
    if row.get("status") == "failed":
        for name in ("metrics.json", "error.log"):
            (folder / name).unlink(missing_ok=True)
    request = {"num": number, "pid": os.getpid(), "overrides": resume.strip_resume(overrides), "config": config}
    write_json(folder / resume.REQUEST, request)


def trial_settings(sweeper: dict[str, Any], number: int) -> str:
    """Return the trial for `callbacks.optuna_pruning` as JSON; empty if the sweep is not a search.

    >>> trial_settings({"max_batch_size": None}, 3)
    ''
    """
    if "study_name" not in sweeper:
        return ""
    trial = {"storage": sweeper["storage"], "name": sweeper["study_name"], "number": number}
    return json.dumps(trial | (sweeper.get("pruning") or {}))


def returned_keys(sweeper: Mapping[str, Any]) -> list[str]:
    """Return the keys of the metrics that a job returns to the sweeper: metrics and constraints, else the score.

    >>> returned_keys({"metrics": ["val/f1_macro"], "constraints": {"latency_ms": 5}}), returned_keys({})
    (['val/f1_macro', 'latency_ms'], ['score'])
    """
    return [*sweeper.get("metrics", ["score"]), *(sweeper.get("constraints") or {})]
