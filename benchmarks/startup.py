"""Start-up time of the commands, compared with the imports that they need.

    python benchmarks/startup.py

Each command runs in a separate process. In every round, all run one after the other. The table has medians.
`--help` and `--cfg` must not import PyTorch.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "python": ["-c", "pass"],
    "import hydra": ["-c", "import hydra"],
    "train.py --help": ["train.py", "--help"],
    "train.py --cfg job": ["train.py", "--cfg", "job"],
    "evaluate.py --help": ["evaluate.py", "--help"],
    "import train's parts": ["-c", "import torch, timm, torchmetrics, pytorch_lightning"],
}


def seconds(arguments: list[str], folder: Path) -> np.ndarray:
    """Wall and CPU seconds of one process."""
    start, before = time.perf_counter(), os.times()
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, os.times()
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return np.array([wall, cpu])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds after the warm-up round")
    options = parser.parse_args()
    clocks: dict[str, list[np.ndarray]] = {name: [] for name in COMMANDS}
    for turn in track(range(options.rounds + 1), "measuring", transient=True):
        for name, arguments in COMMANDS.items():
            times = seconds(arguments, ROOT)
            if turn:  # the first round is a warm-up
                clocks[name].append(times)
    table = Table(title=f"seconds, median of {options.rounds} rounds")
    for column in ("", "wall", "min", "CPU", "import hydra = 1"):
        table.add_column(column, justify="right" if column else "left")
    base = np.array(clocks["import hydra"])
    for name, rows in clocks.items():
        wall, cpu = np.median(rows, axis=0)
        ratio = np.median(np.array(rows)[:, 0] / base[:, 0])
        table.add_row(name, f"{wall:.2f}", f"{np.min(rows, axis=0)[0]:.2f}", f"{cpu:.2f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
