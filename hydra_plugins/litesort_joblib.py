"""Jobs of a sweep in processes of their own: one that dies takes no other with it."""

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from conf import resume


class OwnConfigs(SearchPathPlugin):
    """Let conf/hydra/launcher/joblib.yaml and ray.yaml stand alone: Hydra would hold them against the plugins' own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        launchers = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
        for name in ("joblib.yaml", "ray.yaml"):
            launchers.pop(name, None)


class SlotsLauncher(Launcher):
    """Run `n_jobs` jobs at once, each slot with a worker process of joblib's that is kept for the slot's next job.

    hydra-joblib-launcher, whose `execute_job` runs here, keeps one pool: where one of its processes is killed the
    whole sweep ends. Here the job is a failed row with its reason, and the slot gets another process. Ctrl-C goes to
    each job once, so that it can save its epoch.

    Args:
        n_jobs: Processes; -1: one a core.
        threads: Threads of each; None: the cores, divided among them.
    """

    def __init__(self, n_jobs: int = -1, threads: int | None = None) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.n_jobs = n_jobs if n_jobs > 0 else cores
        self.threads = threads or max(cores // self.n_jobs, 1)
        self.stopped = False

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; returns what each returned, NaN for one that died."""
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
                        os.kill(pid, signal.SIGINT)

    def _slot(self, jobs: Iterator[Any], lock: Any, returned: Any, workers: Any, sweep: Path, state: Any) -> None:
        from joblib.externals.loky.process_executor import BrokenProcessPool, ProcessPoolExecutor

        environment = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        me, executor = threading.get_ident(), None
        for number, overrides in itertools.takewhile(lambda _: not self.stopped, _in_turn(jobs, lock)):
            if executor is None:
                executor = ProcessPoolExecutor(1, env=environment, initializer=_begin, initargs=(os.getpid(),))
                workers[me] = executor
            try:
                returned[number] = executor.submit(
                    _run, number, list(overrides), self.hydra_context, self.config, self.task_function, state
                ).result()
                self.stopped |= returned[number] is None
            except BrokenProcessPool as error:
                executor = None
                if not self.stopped:
                    returned[number] = _lost(sweep, number, list(overrides), error)
        if executor is not None:
            executor.shutdown(wait=True)


def _in_turn(jobs: Iterator[Any], lock: Any) -> Iterator[Any]:
    while True:
        with lock:
            job = next(jobs, None)
        if job is None:
            return
        yield job


def _begin(parent: int) -> None:
    """In a worker: Ctrl-C comes from the launcher alone, and it ends with the launcher, however that ends."""
    os.setpgrp()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _run(number: int, overrides: list[str], context: Any, config: Any, task: Any, state: Any) -> JobReturn | None:
    """In a worker: one job; None if it was asked to stop."""
    from hydra_plugins.hydra_joblib_launcher._core import execute_job

    try:
        return execute_job(number, overrides, context, config, task, state)
    except (KeyboardInterrupt, SystemExit):
        return None


def _lost(sweep: Path, number: int, overrides: list[str], error: BaseException) -> JobReturn:
    """Make a failed row of a job whose process died; returns what stands for its result."""
    from reports.files import write_json, write_text

    reason = "its process was killed: out of memory?"
    asked = {file.parents[1]: resume.read(file) or {} for file in sweep.glob(f"*/{resume.ASKED}")}
    folder = next((folder for folder, job in asked.items() if job.get("num") == number), sweep / f"{number}-lost")
    config = asked.get(folder, {}).get("config", {})
    known = {"name": config.get("name"), "model": config.get("model", {}).get("name"), "seed": config.get("seed")}
    known = {key: value for key, value in known.items() if not str(value).startswith("${")}
    row = {"status": "failed", "error": reason, "overrides": resume.asked(overrides), **known}
    write_json(folder / "metrics.json", row)
    write_text(folder / "error.log", f"{reason}\n{error}\n")
    print(f"error: job {number} ({' '.join(overrides)}): {reason}", file=sys.stderr)
    return JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=float("nan"))
