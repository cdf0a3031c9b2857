"""Run the jobs of a sweep in separate processes; a process that dies ends its own job only."""

import itertools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from litesort.cli import resume
from litesort.cli.job_request import returned_keys
from litesort.system import available_cpus

SIGTERM = "SIGTERMException"  # Lightning's exception for SIGTERM; by name, because the import of Lightning takes 6 s


class OwnConfigs(SearchPathPlugin):
    """Remove the launcher configs of other plugins, since Hydra would validate conf/hydra/launcher against them."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        launchers = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
        for name in ("joblib.yaml", "ray.yaml"):
            launchers.pop(name, None)


class SlotsLauncher(Launcher):
    """Run `n_jobs` jobs at once; each slot keeps one joblib worker process for all its jobs.

    The jobs run with `execute_job` of hydra-joblib-launcher. That launcher has one pool, and a killed process ends the
    whole sweep. With this class, the job becomes a failed row with its reason, and the slot gets a new process. Ctrl-C
    reaches each job once, so that it can save its epoch.

    Args:
        n_jobs: Number of processes; -1 is one per core.
        threads: Threads of each process; None divides the cores by the number of processes.
    """

    def __init__(self, n_jobs: int = -1, threads: int | None = None) -> None:
        cores = available_cpus()
        self.n_jobs = n_jobs if n_jobs > 0 else cores
        self.threads = threads or max(cores // self.n_jobs, 1)
        self.stopped = False

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; returns their results, NaN for a job whose process died."""
        try:
            from hydra_plugins.hydra_joblib_launcher import _core  # noqa: F401
        except ImportError as error:
            raise HydraException("hydra/launcher=joblib needs: pip install -e '.[joblib]'") from error
        setup_globals()
        sweep = Path(str(self.config.hydra.sweep.dir))
        sweep.mkdir(parents=True, exist_ok=True)
        jobs = iter(list(enumerate(job_overrides, initial_job_idx)))
        lock, returned, workers = threading.Lock(), {}, {}  # type: ignore[var-annotated]
        count = min(self.n_jobs, len(job_overrides))
        with ThreadPoolExecutor(count) as slots:
            state = Singleton.get_state()
            running = [slots.submit(self._slot, jobs, lock, returned, workers, sweep, state) for _ in range(count)]
            self._wait(running, workers)
        if self.stopped:
            sys.exit(130)
        return [returned[number] for number in sorted(returned)]

    def _wait(self, running: "list[Future[None]]", workers: dict[int, Any]) -> None:
        for slot in running:
            while True:
                try:
                    slot.result()
                    break
                except KeyboardInterrupt:
                    self.stopped = True
                    for pid in [pid for executor in workers.values() for pid in list(executor._processes or {})]:
                        with suppress(ProcessLookupError):  # it has ended
                            os.kill(pid, signal.SIGINT)

    def _slot(self, jobs: Iterator[Any], lock: Any, returned: Any, workers: Any, sweep: Path, state: Any) -> None:
        from joblib.externals.loky.process_executor import BrokenProcessPool, ProcessPoolExecutor

        environment = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        slot_id, executor = threading.get_ident(), None
        for number, overrides in itertools.takewhile(lambda _: not self.stopped, _next_jobs(jobs, lock)):
            if executor is None:
                executor = ProcessPoolExecutor(1, env=environment, initializer=_init_worker, initargs=(os.getpid(),))
                workers[slot_id] = executor
            try:
                returned[number] = executor.submit(
                    _run, number, list(overrides), self.hydra_context, self.config, self.task_function, state
                ).result()
                self.stopped |= returned[number] is None
            except BaseException as error:  # the process died, or its result could not be sent
                executor = None if isinstance(error, BrokenProcessPool) else executor
                self.stopped |= isinstance(error, KeyboardInterrupt)
                if not self.stopped:
                    with lock:
                        returned[number] = self._result_of_dead_worker(sweep, number, list(overrides), error)
        if executor is not None:
            executor.shutdown(wait=True)

    def _result_of_dead_worker(self, sweep: Path, number: int, overrides: list[str], error: BaseException) -> JobReturn:
        """Return the result of a job whose process died.

        If metrics.json is complete, these are its values. Otherwise the result is NaN, and a failed row is written.
        """
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        from litesort.io import write_text
        from reports.results import one_line, write_failure

        config, folder = self._composed(sweep, number, overrides)
        done = resume.finished_results(folder, config)
        if done is not None:
            values = [done.get(key) for key in returned_keys(self.config.hydra.sweeper)]
            return JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=values)
        killed = isinstance(error, TerminatedWorkerError)
        reason = (
            "its process was killed, possibly for lack of memory"
            if killed
            else f"{type(error).__name__}: {one_line(error)}"
        )
        write_failure(folder, resume.summarize_config(config), resume.strip_resume(overrides), reason)
        write_text(folder / "error.log", f"{reason}\n{''.join(traceback.format_exception(error))}")
        print(f"error: job {number} ({' '.join(overrides)}): {reason}", file=sys.stderr)
        return JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=float("nan"))

    def _composed(self, sweep: Path, number: int, overrides: list[str]) -> tuple[DictConfig, Path]:
        """Compose the config and folder of a job, since its process may have died before it did."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.num = number
        before = HydraConfig.instance().cfg
        HydraConfig.instance().cfg = config  # the folder name is resolved from it
        try:
            return config, sweep / str(config.hydra.sweep.subdir)
        finally:
            HydraConfig.instance().cfg = before


def _next_jobs(jobs: Iterator[Any], lock: Any) -> Iterator[Any]:
    while True:
        with lock:
            job = next(jobs, None)
        if job is None:
            return
        yield job


def _init_worker(parent: int) -> None:
    """Set up a worker, which gets Ctrl-C from the launcher only, and ends when the launcher ends for any reason."""
    os.setpgrp()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _run(number: int, overrides: list[str], context: Any, config: Any, task: Any, state: Any) -> JobReturn | None:
    """Run one job in a worker; None if it was stopped by a signal."""
    from hydra_plugins.hydra_joblib_launcher._core import execute_job

    try:
        return execute_job(number, overrides, context, config, task, state)
    except (KeyboardInterrupt, SystemExit) as error:
        if type(error).__name__ == SIGTERM:  # sent to this process only, e.g. by an out-of-memory daemon: end it
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        return None
