"""Start an entry point, and print an error of the command line in one line instead of Hydra's report."""

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from litesort.cli.paths import CONF, ROOT
from litesort.cli.quoting import expand_globs
from litesort.system import limit_openmp_spinning

COMPOSING = "LITESORT_COMPOSING"  # set until the first job starts; `litesort.cli.sweep_callback` removes it
# Part of an error -> the extra of pyproject.toml that fixes it.
EXTRAS = {"hydra/launcher/submitit": "slurm", "RayLauncher": "ray", "optuna.samplers": "search"}
# Part of an error of a launcher -> what to do about it.
LAUNCHERS = {
    'Could not detect "srun"': "hydra/launcher=slurm needs the command srun, which this machine does not have: "
    "start the sweep on a node of the cluster, or try it here with hydra/launcher=slurm_local"
}
FULL_ERROR = "HYDRA_FULL_ERROR"  # set to 1: Hydra raises errors instead of printing them


def launch(main: Callable[[], Any]) -> None:
    """Call a function that `hydra.main` decorates.

    A command line that does not compose exits with status 2, Ctrl-C with 130. `HYDRA_FULL_ERROR=1` shows Hydra's own
    report instead of one line.
    """
    sys.argv[1:] = expand_globs(sys.argv[1:], CONF)
    limit_openmp_spinning()
    # Jobs that submitit or Ray start in another process find the packages by this variable.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    if os.environ.get(FULL_ERROR) == "1":
        main()
        return
    os.environ[FULL_ERROR] = os.environ[COMPOSING] = "1"
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        composing = type(error).__module__.startswith(("hydra.", "omegaconf."))  # some of these are OSErrors too
        composing |= any(part in str(error) for part in ("Unknown plugin class", *LAUNCHERS))
        if COMPOSING not in os.environ or not (composing or isinstance(error, OSError)):
            raise
        folder = "" if composing else "the run folder cannot be created, choose another with hydra.run.dir: "
        print(f"error: {folder}{describe_error(error)}", file=sys.stderr)
        sys.exit(2)
    finally:
        restore_hydra_errors()


def restore_hydra_errors() -> None:
    """Let Hydra handle errors again; called when the first job starts."""
    if os.environ.pop(COMPOSING, None):
        os.environ.pop(FULL_ERROR, None)


@contextmanager
def phase(text: str) -> Iterator[None]:
    """Show a status line on the terminal during a step without other output. No progress bar may run inside."""
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


def describe_error(error: BaseException) -> str:
    """Describe an error of Hydra's composition in one line: the key, and the nearest valid names."""
    from hydra.errors import HydraException

    override = getattr(error, "override", None)  # of an override that cannot be parsed
    if override is None and type(error.__cause__) is HydraException:  # of a launcher or sweeper that Hydra builds
        error = error.__cause__
    text = " ".join(str(error).split())
    for part, extra in EXTRAS.items():
        if part in text:
            return f"this sweep needs another package: pip install -e '.[{extra}]'"
    for part, line in LAUNCHERS.items():
        if part in text:
            return line
    cause: Any = error.__cause__
    missing, options = getattr(error, "missing_cfg_file", None), getattr(error, "options", None)
    if missing and options:
        group, _, name = missing.rpartition("/")
        options = [option for option in options if not option.startswith("_")]
        return f"{group}={name} does not exist: {_nearest(name, options) or 'choose one of ' + ', '.join(options)}"
    if (key := getattr(cause, "key", None)) is not None and text.startswith("Could not override"):
        path = text.split("'")[1]
        siblings = [str(name) for name in cause.parent_node or {}]
        return f"{path} is not a setting: {_nearest(str(key), siblings) or 'see them all with --cfg job'}"
    if text.startswith("Ambiguous value for argument"):
        given = text.split("'")[1]
        return f"{given} has several values: add -m to sweep over them, or write a list as key=[a,b]"
    if unknown := re.match(r"In '[^']*': Could not load '([^']+)/([^']+)'", text):
        return f"{unknown[1]}=[{unknown[2]}] does not exist: choose from conf/{unknown[1]}"
    if override and (unknown := re.search(r"Unknown function '([^']+)' Available: (\S+)", text)):
        return f"{override} cannot be read: {unknown[1]} is not a function: choose from {unknown[2].replace(',', ', ')}"
    if override:
        return f"{override} cannot be read: write key=value, and quote special characters: 'key=\"value\"'"
    return text if cause is None else f"{text} ({' '.join(str(cause).split())})"


def _nearest(name: str, options: list[str]) -> str:
    near = difflib.get_close_matches(name, options, n=3, cutoff=0.6)
    return f"did you mean {', '.join(near)}?" if near else ""
