"""Resumed sweeps: finished and unfinished jobs, and checks that no setting has changed."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from litesort.cli.stored_config import images_name
from litesort.plain_data import parse_json

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

SWEEP = "sweep.json"  # in the folder of a sweep: its command line
REQUEST = ".hydra/request.json"  # in the folder of a job: its command line and its config as first composed
LOCK = ".lock"  # in the folder of a job: locked by the process that runs it; the system unlocks it if the process dies
LOCK_PID = ".lock.pid"  # the id of the process that has the lock, for messages
# Settings that may change when a sweep is resumed, because no result depends on them.
MAY_DIFFER = (
    "resume", "run_dir", "tags", "notes", "logger", "callbacks.progress", "trainer.enable_progress_bar",
    "trainer.enable_model_summary", "data.num_workers", "data.cache_dir", "data.cache_budget_gb",
    "hydra.sweeper.n_trials", "hydra.sweeper.n_jobs", "hydra.sweeper.max_batch_size",
)  # fmt: skip


def may_differ(key: str) -> bool:
    """Return True for a setting that may change when a sweep is resumed. It is left out of the folder name of a job.

    >>> may_differ("trainer.enable_progress_bar"), may_differ("logger.wandb.project"), may_differ("trainer.precision")
    (True, True, False)
    """
    bare = key.lstrip("+~")
    return any(bare == free or bare.startswith(f"{free}.") for free in MAY_DIFFER)


def unnamed_keys(keys: Sequence[str], *, _root_: DictConfig) -> list[str]:
    """Return the keys that are left out of the folder name of a job: `keys`, and overrides that a resume may change."""
    given = [str(item).partition("=")[0].lstrip("+~") for item in _root_.hydra.overrides.task]
    return [*keys, *(key for key in given if may_differ(key))]


def strip_resume(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a job without `resume=...`.

    >>> strip_resume(["model=resnet18", "resume=true"])
    ['model=resnet18']
    """
    return [item for item in overrides if not item.startswith("resume=")]


def refusal(
    folder: Path, command: dict[str, Any], resume: bool | None, compose: Callable[[list[str]], Any]
) -> str | None:
    """Return why a sweep cannot run in a folder, in one line; None if it can.

    Args:
        folder: The folder of the sweep; it need not exist.
        command: The sweep as `sweep_request` describes it.
        resume: Whether an existing sweep is resumed; None if the command cannot resume a sweep.
        compose: Overrides of a job -> its config.
    """
    requests = sorted(folder.glob(f"*/{REQUEST}"))
    before = read(folder / SWEEP)
    if before is None and not requests:
        return None
    otherwise = "or choose another hydra.sweep.dir"
    if resume is None:
        return f"hydra.sweep.dir={folder} holds a sweep: choose another folder"
    if not resume:
        return f"hydra.sweep.dir={folder} holds a sweep: add resume=true to run its unfinished jobs, {otherwise}"
    changed = differences(before if before is not None else command, command)
    if changed:
        key, was, now = changed[0]
        return f"{key}={now}: the sweep in {folder} was started with {key}={was}: give that, {otherwise}"
    for file in requests:
        job = read(file) or {}
        changed = differences(flat(job.get("config", {})), flat(compose(job.get("overrides", []))))
        if changed:
            key, was, now = changed[0]
            return f"{key} was {was} when {file.parent.parent} was started and is {now} now: restore it, {otherwise}"
    return None


def sweep_request(overrides: Sequence[str], sweeper: dict[str, Any], subdir: str) -> dict[str, Any]:
    """Describe a sweep for `refusal`: overrides, order of the swept settings, and settings of the sweeper.

    The numbers of the jobs depend only on the order of the settings with several values.

    >>> sweep_request(["seed=0", "model=a,b"], {}, "x")
    {'seed': '0', 'model': 'a,b', 'order': 'model', 'hydra.sweep.subdir': 'x'}
    """
    given = dict(item.partition("=")[::2] for item in overrides)
    swept = (override.get_key_element() for override in _parsed(overrides) if override.is_sweep_override())
    order = " ".join(key for key in swept if not may_differ(key))
    return {**given, "order": order, "hydra.sweep.subdir": subdir, **flat(sweeper, "hydra.sweeper.")}


def _parsed(overrides: Sequence[str]) -> "list[Override]":
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_overrides(list(overrides))


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return key, old and new value of flat settings that differ, without those in `MAY_DIFFER`.

    >>> differences({"seed": 0, "tags": ["a"]}, {"seed": 1, "tags": []})
    [('seed', 0, 1)]
    """
    keys = sorted((key for key in {**before, **now} if not may_differ(key)), key=lambda key: key == "order")
    pairs = [(key, before.get(key, "unset"), now.get(key, "unset")) for key in keys]
    return [(key, was, is_now) for key, was, is_now in pairs if was != is_now]


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted keys.

    >>> flat({"data": {"size": 96}, "seed": 0})
    {'data.size': 96, 'seed': 0}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return found


def finished(cfg: DictConfig) -> dict[str, Any] | None:
    """Return the content of metrics.json if the job is resumed and finished; None otherwise."""
    return finished_results(Path(cfg.run_dir), cfg) if OmegaConf.select(cfg, "resume") else None


def summarize_config(cfg: DictConfig | None) -> dict[str, Any]:
    """Return the values that identify a job without results; None for those that cannot be resolved."""

    def select(key: str) -> Any:
        try:
            value = None if cfg is None else OmegaConf.select(cfg, key, throw_on_missing=False)
        except Exception:  # an interpolation that only resolves inside the job
            return None
        return value if isinstance(value, str | int | float | bool) and value == value else None

    data = None
    with suppress(Exception):  # a config without data, or an interpolation that only resolves inside the job
        data = images_name(cfg.data) if cfg is not None else None
    values = {"model": select("model.name"), "seed": select("seed"), "data": data, "size": select("data.size")}
    return {"name": select("name") or select("model.name")} | values


def finished_results(folder: Path, cfg: DictConfig) -> dict[str, Any] | None:
    """Return the content of metrics.json in the folder of a job if the job is finished; None otherwise."""
    results = read(folder / "metrics.json") or {}
    if results.get("status") == "completed" and OmegaConf.select(cfg, "export.format"):
        return results if any(folder.glob("exported*/export.json")) else None  # written after all files
    return results if results.get("status") in ("completed", "pruned") else None


def resume_checkpoint(cfg: DictConfig) -> str | None:
    """Return the checkpoint that a resumed job continues from; None if the job starts from the beginning."""
    last = Path(cfg.run_dir) / "last.ckpt"
    return str(last) if cfg.get("resume") and last.is_file() else None


@contextmanager
def lock_folder(folder: Path, notify: Callable[[str], Any] = print) -> Iterator[None]:
    """Lock the folder of a job; wait while another process has locked it, e.g. a job of a sweep that was killed."""
    if int(os.environ.get("LOCAL_RANK", 0)) > 0:  # another process of the run that has locked it
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        notify(f"{folder} is locked by another process{_holder(folder)}; waiting")
        lock.acquire()
    try:
        with suppress(OSError):  # the id is only used in a message
            (folder / LOCK_PID).write_text(f"{os.getpid()}\n")
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK_PID).unlink()
        lock.release()


def _holder(folder: Path) -> str:
    """Return " (pid N)" for the process that has locked a folder; empty if it is unknown."""
    try:
        return f" (pid {int((folder / LOCK_PID).read_text())})"
    except (OSError, ValueError):
        return ""


def read(file: Path) -> dict[str, Any] | None:
    """Read a mapping from a JSON file; None if the file does not exist or holds anything else."""
    try:
        values = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None
