"""Hydra callback around every job: one-line errors, rows for failed jobs, and the leaderboard of a sweep."""

import atexit
import contextlib
import errno
import inspect
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import InstantiationException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError, MissingMandatoryValue, ValidationError

from litesort.cli import resume
from litesort.cli.compose import plain
from litesort.cli.folders import refuse_used
from litesort.cli.job_request import save_job_request, trial_settings
from litesort.cli.launch import describe_error, restore_hydra_errors
from litesort.cli.validate import check_values
from litesort.errors import UserError
from litesort.io import write_json, write_text

MISCONFIGURED = "MisconfigurationException"  # Lightning's class; by name, because the import of Lightning takes 6 s
# Lightning sets these variables and does not reset them.
RANKS = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Settings without effect in a single run.
SWEEP_SETTINGS = ("hydra/sweeper=", "hydra/launcher=", "hydra.sweeper.", "hydra.launcher.")
PRUNED = "TrialPruned"  # Optuna's exception for a pruned trial
USER_ERRORS = (
    UserError, MissingMandatoryValue, InterpolationKeyError, InterpolationResolutionError, ValidationError,
)  # fmt: skip


class SweepCallback(Callback):
    """Report errors of jobs, continue a sweep after failed jobs, and rank the jobs at the end.

    Single run: a user error prints `error: ...` and exits with status 2. Any other exception keeps Hydra's traceback
    and status 1. Sweep: a job that raises leaves `metrics.json` with status "failed", and the sweep continues. At the
    end the leaderboard is printed and written; the exit status is 1 if a job failed. The traceback is always in the
    `error.log` of the job; `HYDRA_FULL_ERROR=1` prints it.

    `on_job_*` run in the process of the job, for every launcher. `on_multirun_*` run in the process of the command
    line. Code of a job must not raise SystemExit, since Hydra does not catch it and the sweep would end. Ctrl-C and
    SIGTERM during training raise it on purpose; the leaderboard of the finished jobs is then written at exit.
    """

    def __init__(self) -> None:
        self._message: str | None = None
        self._command = sys.argv
        self._ranks: dict[str, str | None] = {}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(str(config.hydra.sweep.dir))
        _check_sweep(config)
        command = resume.sweep_request(
            config.hydra.overrides.task,
            plain(config.hydra.sweeper, resolve=False),
            str(plain(config.hydra.sweep, resolve=False)["subdir"]),
        )
        resumed = bool(config.resume) if "resume" in config else None
        try:
            refusal = resume.refusal(folder, command, resumed, lambda overrides: _compose_job(config, overrides))
        except Exception as error:  # a job no longer composes
            refusal = describe_error(error)
        if refusal:
            _exit(refusal)
        write_json(folder / resume.SWEEP, command)
        self._at_exit = AtExit(folder)
        atexit.register(self._at_exit)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        restore_hydra_errors()
        if _is_sweep(config):
            # W&B reads this variable: the jobs of a sweep form one group.
            os.environ["WANDB_RUN_GROUP"] = Path(str(config.hydra.sweep.dir)).name
            search, number = plain(config.hydra.sweeper), config.hydra.job.num
            os.environ["LITESORT_TRIAL"] = trial_settings(search, number)
            self._command, self._ranks = sys.argv, {name: os.environ.get(name) for name in RANKS}
            _set_command_line(config, inspect.getfile(kwargs["task_function"]))
            if config.hydra.output_subdir is not None:
                save_job_request(
                    Path(str(config.hydra.runtime.output_dir)), number, config.hydra.overrides.task, _job_config(config)
                )

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        from reports.results import write_failure

        failed = job_return.status == JobStatus.FAILED
        if _is_sweep(config):
            sys.argv = self._command
            _leave_process_group(self._ranks)
        _close_wandb(failed)
        if not failed or int(os.environ.get("LOCAL_RANK", 0)) > 0:
            return
        error = job_return._return_value
        folder = Path(str(config.hydra.runtime.output_dir))
        if type(error).__name__ == PRUNED:
            summary = resume.summarize_config(job_return.cfg)
            write_failure(folder, summary, resume.strip_resume(job_return.overrides or []), str(error), "pruned")
            job_return.status, job_return.return_value = JobStatus.COMPLETED, float("nan")
            return
        if config.hydra.output_subdir is not None:  # otherwise the command writes requested files only
            with contextlib.suppress(OSError):  # a full disk, which the message of the error names
                write_text(folder / "error.log", "".join(traceback.format_exception(error)))
        self._message = _user_error(error)
        if _is_sweep(config):
            self._fail(config, job_return, folder, error)

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        if OmegaConf.select(config, "resume") and not os.environ.get("LOCAL_RANK"):
            _exit("resume=true needs a sweep (-m): resume a single run with ckpt=RUN/last.ckpt")
        swept = [given for given in config.hydra.overrides.hydra if given.lstrip("+").startswith(SWEEP_SETTINGS)]
        if swept and not os.environ.get("LOCAL_RANK"):
            _exit(f"{swept[0]} needs a sweep: add -m, or leave it out")
        for key in ("ckpt", "ckpt_init"):  # checked here, before the folder of the run is created
            path = OmegaConf.select(config, key)
            if path is not None and not Path(str(path)).exists():
                _exit(f"{key}={path} does not exist: give the path of a file")
        # The resolvers create a new folder, so it is empty. predict and export write no results of a run.
        named = str(plain(config.hydra.run, resolve=False)["dir"])
        is_new = named.startswith(("${fresh_dir:", "${resume_dir:"))
        if config.hydra.output_subdir is not None and not is_new and not os.environ.get("LOCAL_RANK"):
            try:
                refuse_used(Path(str(config.hydra.run.dir)), OmegaConf.select(config, "ckpt"), "resume" in config)
            except UserError as error:
                _exit(str(error))

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        if self._message is not None and os.environ.get("HYDRA_FULL_ERROR") != "1":
            _exit(self._message)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.unregister(self._at_exit)
        try:
            rows = finish(Path(str(config.hydra.sweep.dir)))
        except Exception:  # Hydra would turn it into a warning and exit with status 0
            traceback.print_exc()
            sys.exit(1)
        jobs, files = [row for row in rows if "file" not in row], [row for row in rows if "file" in row]
        failed = [sum(row.get("status") == "failed" for row in part) for part in (jobs, files)]
        if failed[0]:
            print(f"{failed[0]} of {len(jobs)} jobs failed; see their error.log", file=sys.stderr)
        if failed[1]:
            print(
                f"{failed[1]} of {len(files)} exported files failed; see the leaderboard for the reasons",
                file=sys.stderr,
            )
        if any(failed):
            sys.exit(1)

    def _fail(self, config: DictConfig, job_return: JobReturn, folder: Path, error: BaseException) -> None:
        from reports.results import write_failure

        message = self._message or f"{type(root_cause(error)).__name__}: {_one_line(root_cause(error))}"
        overrides = resume.strip_resume(job_return.overrides or [])
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exception(error)
        print(f"error: job {config.hydra.job.num} ({' '.join(overrides)}): {message}", file=sys.stderr)
        write_failure(folder, resume.summarize_config(job_return.cfg), overrides, message)
        # Hydra would raise the exception of a failed job after the batch. A sweeper gets NaN instead.
        job_return.status = JobStatus.COMPLETED
        job_return.return_value = float("nan")


class AtExit:
    """Rank the finished jobs of a sweep that is interrupted; Hydra calls no callback then.

    If a sweep ends before its first job, its sweep.json is deleted, so that a corrected command can use the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = os.getpid()

    def __call__(self) -> None:
        if os.getpid() != self.process:
            return
        if any(self.folder.glob("*/.hydra")):
            print("\nThe sweep was interrupted; these jobs have finished.", file=sys.stderr)
            finish(self.folder)
        else:
            (self.folder / resume.SWEEP).unlink(missing_ok=True)


def _check_sweep(config: DictConfig) -> None:
    """Exit with one line if a setting of litesort's launcher or sweeper has a wrong type, or a grid has no job."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for part in ("launcher", "sweeper"):
        values = plain(config.hydra[part])
        if str(values["_target_"]).startswith("hydra_plugins.litesort_"):
            own = {key: value for key, value in values.items() if key not in ("params", "constraints")}
            try:
                check_values(own, f"hydra.{part}.")
            except UserError as error:
                _exit(str(error))
    if "study_name" in config.hydra.sweeper:
        return  # the search checks its space
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    for override in parser.parse_overrides(list(config.hydra.overrides.task)):
        listed = override.is_sweep_override() and not override.is_interval_sweep()
        if listed and not list(override.sweep_iterator()):
            _exit(f"{override.input_line} gives no value, so no job would run: correct it")


def _set_command_line(config: DictConfig, script: str) -> None:
    """Set the command line and `hydra.run.dir` to those of the job, which Lightning's further processes use."""
    sys.argv = [script, *config.hydra.overrides.task]
    current: Any = HydraConfig.instance().cfg  # the whole config; Hydra's type hint is wrong
    with read_write(current.hydra.run):
        current.hydra.run.dir = config.hydra.runtime.output_dir


def _compose_job(config: DictConfig, overrides: list[str]) -> dict[str, Any]:
    """Compose the config of a job of a sweep; raises Hydra's error if it no longer composes."""
    from hydra.core.global_hydra import GlobalHydra

    return _job_config(GlobalHydra.instance().config_loader().load_sweep_config(config, overrides))


def _job_config(config: DictConfig) -> dict[str, Any]:
    return {key: value for key, value in plain(config, resolve=False).items() if key != "hydra"}


def finish(folder: Path) -> list[dict[str, Any]]:
    """Print and write the leaderboard of a sweep; a job without a result is a failed row.

    Args:
        folder: Folder of the sweep, with one folder per job.

    Returns:
        The ranked rows of jobs and of their exported files; empty if there is no job.
    """
    # Imported here, so that `--help` does not import matplotlib and rich.
    from loggers.wandb_sweep import write_dashboards
    from reports import leaderboard
    from reports.ranking import rank
    from reports.results import gather

    rows = rank(gather(folder))
    if rows:
        leaderboard.print_table(rows)
        written = [*leaderboard.write(rows, folder), *write_dashboards(rows, folder)]
        print("wrote " + ", ".join(map(str, written)))
    return rows


def _exit(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def root_cause(error: BaseException) -> BaseException:
    """Return the exception inside the one that Hydra's `instantiate` raises."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _user_error(error: BaseException) -> str | None:
    """Return a user error in one line; None if the error may be a bug."""
    cause = root_cause(error)
    if isinstance(cause, USER_ERRORS) or any(base.__name__ == MISCONFIGURED for base in type(cause).__mro__):
        return _one_line(cause)
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{cause.filename or 'a file'} cannot be written: the disk is full: free some space"
    part = re.search(r"full_key: (\S+)", str(error)) if isinstance(error, InstantiationException) else None
    # Errors of other packages do not name the setting, so the key is added.
    if part is None or not isinstance(cause, ValueError | TypeError | ImportError):
        return None
    key = re.sub(r"^data[.](?=(augment|sampler)[.])", "", part[1])  # `data` only refers to these groups
    return f"{key}: {_one_line(cause)}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _is_sweep(config: DictConfig) -> bool:
    return config.hydra.mode in (RunMode.MULTIRUN, RunMode.MULTIRUN.name)


def _close_wandb(failed: bool) -> None:
    wandb = sys.modules.get("wandb")
    if wandb is not None and getattr(wandb, "run", None) is not None:
        # Otherwise the next job of a sweep would log to this run.
        wandb.finish(exit_code=int(failed))


def _leave_process_group(before: dict[str, str | None]) -> None:
    """Destroy the process group of a job, which Lightning keeps until exit, so that the next job can create one.

    Args:
        before: Environment variables to restore: name -> value before the job, None if it was not set.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
