"""Run several command lines in one child process: the imports, which cost seconds, are paid for once."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
CODE = """
import contextlib, io, json, os, runpy, sys, traceback

commands, root, answers = json.loads(sys.argv[1]), sys.argv[2], []
environment = dict(os.environ)
sys.path.insert(0, root)
for script, *arguments in commands:
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [os.path.join(root, script), *arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        except Exception:
            traceback.print_exc()
            code = 1
    answers.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(answers))
"""


class Answer(NamedTuple):
    """What a command line printed, and its exit status."""

    returncode: int
    stdout: str
    stderr: str


def run_all(commands: Sequence[Sequence[str]], cwd: Path) -> list[Answer]:
    """Run `[script, *arguments]` one after the other, each as if typed in the folder `cwd`."""
    command = [sys.executable, "-c", CODE, json.dumps([list(one) for one in commands]), str(ROOT)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [Answer(*answer) for answer in json.loads(done.stdout.splitlines()[-1])]
