"""Run entry points in separate processes without importing the heavy packages each time.

A fork server imports the heavy packages once for each pytest process. Each command line is a fork of the server: a
process with its own memory, working directory, environment and exit status, which a test can kill.
"""

import atexit
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
FORKS = multiprocessing.get_context("forkserver")
PACKAGES = ["torch", "pytorch_lightning", "timm", "torchmetrics.classification", "kornia.augmentation", "hydra"]
FORKS.set_forkserver_preload(PACKAGES)


class Job:
    """A running command line, with the methods of `subprocess.Popen`."""

    def __init__(self, command: Sequence[str], cwd: Path, env: Mapping[str, str] | None) -> None:
        self.command, self.output = list(command), Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self.output, ignore_errors=True)
        for name in ("out", "err"):
            (self.output / name).touch()
        environment = dict(os.environ if env is None else env)
        self.process = FORKS.Process(target=_child, args=(self.command, str(cwd), environment, str(self.output)))
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        self.process.join(timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait until the process ends; returns stdout and stderr."""
        if self.wait(timeout) is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.command, timeout)
        return tuple((self.output / name).read_text(encoding="utf-8") for name in ("out", "err"))  # type: ignore[return-value]


def start(script: str, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> Job:
    """Start `python SCRIPT ARGUMENTS` in the folder `cwd`, as the leader of a process group.

    Args:
        script: Path of the script, relative to the repository.
        arguments: Its arguments.
        cwd: Working directory.
        env: Environment variables; None takes those of this process.
    """
    return Job([script, *arguments], cwd, env)


def run(
    script: str, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run `python SCRIPT ARGUMENTS` in the folder `cwd` to its end."""
    job = start(script, *arguments, cwd=cwd, env=env)
    out, err = job.communicate(timeout)
    assert job.returncode is not None
    return subprocess.CompletedProcess([script, *arguments], job.returncode, out, err)


def run_all(commands: Sequence[Sequence[str]], cwd: Path) -> list[subprocess.CompletedProcess[str]]:
    """Run `[script, *arguments]` one after the other, each in the folder `cwd`."""
    return [run(*command, cwd=cwd) for command in commands]


def _child(command: list[str], cwd: str, environment: dict[str, str], output: str) -> None:
    multiprocessing.set_start_method(None, force=True)  # the default, as in a new Python process
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(output) / name, os.O_WRONLY), number)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    own = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    script = ROOT / command[0]
    sys.path[:0] = dict.fromkeys([str(script.parent), *own, str(ROOT)])
    sys.argv = [str(script), *command[1:]]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()  # multiprocessing does not run them
