"""The console command: `litesort train ...` runs train.py, and so on for each entry point."""

import difflib
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from litesort.cli.paths import ROOT

COMMANDS = {
    "train": "train one network and evaluate it, or sweep over many with -m",
    "evaluate": "measure macro F1, calibration and latency of a checkpoint or an exported file",
    "export": "write deployable files of a checkpoint and compare them with it",
    "predict": "label images with a checkpoint or an exported file",
    "explore": "report counts, duplicates, likely wrong labels and rare images of a data set",
}


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> None:
    """Run one entry point as `python COMMAND.py ARGUMENTS` does.

    The script runs as `__main__` with the checkout first on `sys.path`, so that sweeps start their jobs as they do
    for `python train.py`.

    Args:
        arguments: Command and its arguments; None uses those of the process.
        root: Folder of the scripts.
    """
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command in ("-h", "--help"):
        print("usage: litesort COMMAND [key=value ...]\n")
        print("\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items()))
        print("\nlitesort COMMAND --help lists the settings of a command.")
        return
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}"
        _exit(f"{command} is not a command: {hint}")
    script = root / f"{command}.py"
    if not script.is_file():
        _exit(f"{script} is missing: install from a checkout with pip install -e .")
    sys.argv = [str(script), *rest]
    sys.path.insert(0, str(root))
    runpy.run_path(str(script), run_name="__main__")


def _exit(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
