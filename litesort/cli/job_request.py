"""What a job of a sweep leaves for those who come after it, and is told by those who started it; plain data."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from litesort.cli import resume


def save_job_request(folder: Path, number: int, overrides: Sequence[str], config: dict[str, Any]) -> None:
    """Note what a job was asked, for whoever resumes the sweep, and take away what a failed try left behind.

    Args:
        folder: The job's.
        number: The job's in its sweep.
        overrides: Its command line.
        config: As composed, interpolations kept.
    """
    from litesort.io import write_json

    row = resume.read(folder / "metrics.json") or {}
    if row.get("status") == "failed":
        for name in ("metrics.json", "error.log"):
            (folder / name).unlink(missing_ok=True)
    asked = {"num": number, "pid": os.getpid(), "overrides": resume.strip_resume(overrides), "config": config}
    write_json(folder / resume.REQUEST, asked)


def trial_settings(sweeper: dict[str, Any], number: int) -> str:
    """What `callbacks.optuna_pruning` has to know, as JSON; empty where the sweep is no search.

    >>> trial_settings({"max_batch_size": None}, 3)
    ''
    """
    if "study_name" not in sweeper:
        return ""
    place = {"storage": sweeper["storage"], "name": sweeper["study_name"], "number": number}
    return json.dumps(place | (sweeper.get("pruning") or {}))


def leave_group(before: dict[str, str | None]) -> None:
    """End a job's processes' group, which Lightning leaves to the end of the program, so that the next job has its own.

    Args:
        before: Environment variables as they were when the job started; None: not there.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
