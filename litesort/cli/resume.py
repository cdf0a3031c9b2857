"""Sweeps that go on: what is finished, what is half-done, and whether anything was changed in between."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from litesort.plain_data import parse_json

SWEEP = "sweep.json"  # in a sweep's folder: what was asked for
REQUEST = ".hydra/asked.json"  # in a job's folder: its command line and its config as first composed; written whole
LOCK = ".lock"  # in a job's folder: held by the process that runs it, and let go by the system when that dies
# What a sweep may be resumed with other values of: no result hangs on it.
MAY_DIFFER = (
    "resume", "run_dir", "tags", "notes", "logger", "callbacks.progress", "trainer.enable_progress_bar",
    "trainer.enable_model_summary", "data.num_workers", "data.cache_dir", "data.cache_budget_gb",
    "hydra.sweeper.n_trials", "hydra.sweeper.n_jobs", "hydra.sweeper.max_batch_size",
)  # fmt: skip


def strip_resume(overrides: Sequence[str]) -> list[str]:
    """Command line of a job without what only says that it goes on.

    >>> strip_resume(["model=resnet18", "resume=true"])
    ['model=resnet18']
    """
    return [item for item in overrides if not item.startswith("resume=")]


def refusal(folder: Path, command: dict[str, Any], resume: bool, compose: Callable[[list[str]], Any]) -> str | None:
    """Say in one line why a sweep cannot run in a folder; None if it can.

    Args:
        folder: The sweep's folder; it need not be there.
        command: What is asked for now, `key -> value`, as `sweep_request` keeps it.
        resume: Whether to go on with what is there.
        compose: Gives the config that a job's command line has now.
    """
    begun = sorted(folder.glob(f"*/{REQUEST}"))
    before = read(folder / SWEEP)
    if before is None and not begun:
        return None
    otherwise = "or choose another hydra.sweep.dir"
    if not resume:
        return f"hydra.sweep.dir={folder} holds a sweep: add resume=true to run what it has not finished, {otherwise}"
    changed = differences(before if before is not None else command, command)
    if changed:
        key, was, now = changed[0]
        return f"{key}={now}: the sweep in {folder} was started with {key}={was}: say that, {otherwise}"
    for file in begun:
        job = read(file) or {}
        changed = differences(flat(job.get("config", {})), flat(compose(job.get("overrides", []))))
        if changed:
            key, was, now = changed[0]
            return f"{key} was {was} when {file.parent.parent} was started and is {now} now: put it back, {otherwise}"
    return None


def sweep_request(overrides: Sequence[str], sweeper: dict[str, Any], subdir: str) -> dict[str, Any]:
    """What a sweep is asked for, as `refusal` compares it: the command line's values in their order, and the sweeper's.

    >>> sweep_request(["model=a,b", "seed=0"], {}, "x")
    {'model': 'a,b', 'seed': '0', 'order': 'model seed', 'hydra.sweep.subdir': 'x'}
    """
    said = dict(item.partition("=")[::2] for item in overrides)
    order = " ".join(key for key in said if not _may_differ(key))
    return {**said, "order": order, "hydra.sweep.subdir": subdir, **flat(sweeper, "hydra.sweeper.")}


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Keys of flat settings whose values differ, with both values; those in `MAY_DIFFER` do not count.

    >>> differences({"seed": 0, "tags": ["a"]}, {"seed": 1, "tags": []})
    [('seed', 0, 1)]
    """
    keys = sorted((key for key in {**before, **now} if not _may_differ(key)), key=lambda key: key == "order")
    pairs = [(key, before.get(key, "unset"), now.get(key, "unset")) for key in keys]
    return [(key, was, is_now) for key, was, is_now in pairs if was != is_now]


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level.

    >>> flat({"data": {"size": 96}, "seed": 0})
    {'data.size': 96, 'seed': 0}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return found


def finished(cfg: DictConfig) -> dict[str, Any] | None:
    """What metrics.json of a job that goes on holds if it has nothing left to do; None otherwise."""
    return finished_results(Path(cfg.run_dir), cfg) if OmegaConf.select(cfg, "resume") else None


def summarize_config(cfg: DictConfig | None) -> dict[str, Any]:
    """What the row of a job without results is known by; what was not composed, or only holds inside it, is None."""

    def plain(key: str) -> Any:
        try:
            value = None if cfg is None else OmegaConf.select(cfg, key, throw_on_missing=False)
        except Exception:  # an interpolation that only holds inside the job
            return None
        return value if isinstance(value, str | int | float | bool) and value == value else None

    keys = {"model": "model.name", "seed": "seed", "data": "data.name", "size": "data.size"}
    return {"name": plain("name") or plain("model.name")} | {name: plain(key) for name, key in keys.items()}


def finished_results(folder: Path, cfg: DictConfig) -> dict[str, Any] | None:
    """What metrics.json in a job's folder holds if the job came to its end; None otherwise."""
    results = read(folder / "metrics.json") or {}
    if results.get("status") == "completed" and OmegaConf.select(cfg, "export.format"):
        return results if any(folder.glob("exported*/export.json")) else None  # written after all files
    return results if results.get("status") in ("completed", "pruned") else None


def resume_checkpoint(cfg: DictConfig) -> str | None:
    """The checkpoint that a job that goes on has to go on from; None if it has to start."""
    last = Path(cfg.run_dir) / "last.ckpt"
    return str(last) if cfg.get("resume") and last.is_file() else None


@contextmanager
def lock_folder(folder: Path, say: Callable[[str], Any] = print) -> Iterator[None]:
    """Hold a job's folder; wait for another process that does, which a killed sweep may have left behind."""
    if int(os.environ.get("LOCAL_RANK", 0)) > 0:  # one of several processes of the run that holds it
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{folder} is in the hands of another process: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _may_differ(key: str) -> bool:
    bare = key.lstrip("+~")
    return any(bare == free or bare.startswith(f"{free}.") for free in MAY_DIFFER)


def read(file: Path) -> dict[str, Any] | None:
    """A JSON file's mapping; None if it is not there, or is not one."""
    try:
        values = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None
