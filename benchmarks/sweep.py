"""Sweep of six trainings of lcnet_050 at 64 px: one at a time, two at a time, and the time of a job outside training.

    python benchmarks/sweep.py

All trainings use one pixel cache. A sweep is timed from the start of the command to its end, imports included. Two
times are reported for a job. The first is from its start to its first training step, which a callback records. The
second is from its start to the start of the next job, without its training. The first job starts with the process.
Evaluation and latency benchmark have their default settings.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
TINY = (
    "model=lcnet_050", "model.pretrained=false", "data.size=64", "data.batch_size=16",
    "trainer.enable_progress_bar=false", "trainer.accelerator=cpu", "logger=none", "seed=0,1,2,3,4,5",
)  # fmt: skip
# sitecustomize.py: adds a callback to each Trainer that logs the time of the first training step.
SITE = """
import json, os, sys, time
from pathlib import Path
if os.environ.get("BENCH_LOG"):
    class AddCallback:
        def find_spec(self, name, path=None, target=None):
            if name == "callbacks.checkpoint" and "pytorch_lightning" in sys.modules:
                sys.meta_path.remove(self)
                from pytorch_lightning import Callback, Trainer
                class LogFirstStep(Callback):
                    def on_train_batch_end(self, trainer, module, outputs, batch, index):
                        if trainer.global_step == 1:
                            with open(os.environ["BENCH_LOG"], "a") as file:
                                file.write(json.dumps([os.getpid(), time.time()]) + "\\n")
                before = Trainer.__init__
                def init(self, *a, callbacks=(), **k):
                    before(self, *a, callbacks=[*callbacks, LogFirstStep()], **k)
                Trainer.__init__ = init
            return None
    sys.meta_path.insert(0, AddCallback())
"""


def sweep(folder: Path, *arguments: str, **environment: str) -> float:
    """Wall seconds of a sweep."""
    start = time.perf_counter()
    command = [sys.executable, str(ROOT / "train.py"), "-m", *TINY, *arguments, f"hydra.sweep.dir={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - start


def costs(folder: Path, log: Path, start_time: float) -> tuple[list[float], list[float]]:
    """Seconds from the start of each job to its first step, and seconds outside training of each job but the last."""
    steps = [json.loads(line)[1] for line in log.read_text().splitlines()]
    jobs = sorted(folder.glob("[0-9]*-*"))
    starts = [start_time, *((job / ".hydra" / "request.json").stat().st_mtime for job in jobs[1:])]
    trained = [json.loads((job / "metrics.json").read_text())["train_seconds"] for job in jobs]
    outside = [end - start - training for start, end, training in zip(starts, starts[1:], trained, strict=False)]
    return [step - start for step, start in zip(steps, starts, strict=True)], outside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()
    epochs = f"epochs={options.epochs}"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(SITE)
        os.environ["LITESORT_CACHE"] = str(folder / "cache")
        sweep(folder / "warm", "epochs=1", "seed=0")  # warm-up: builds the cache, reads the files
        start_time, log = time.time(), folder / "log"
        alone = sweep(folder / "alone", epochs, BENCH_LOG=str(log), PYTHONPATH=str(folder / "site"))
        to_first_step, outside = costs(folder / "alone", log, start_time)
        pair = sweep(folder / "pair", epochs, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    table = Table(title=f"6 jobs of {options.epochs} epochs")
    for column in ("", "seconds", "times as fast"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("one after the other", f"{alone:.1f}", "1")
    table.add_row("joblib, 2 processes", f"{pair:.1f}", f"{alone / pair:.2f}")
    table.add_row("first job, start to first step", f"{to_first_step[0]:.1f}", "")
    table.add_row("later jobs, start to first step (median)", f"{np.median(to_first_step[1:]):.2f}", "")
    table.add_row("... the slowest", f"{max(to_first_step[1:]):.2f}", "")
    table.add_row("first job, outside training", f"{outside[0]:.1f}", "")
    table.add_row("later jobs, outside training (median)", f"{np.median(outside[1:]):.2f}", "")
    table.add_row("... the slowest", f"{max(outside[1:]):.2f}", "")
    Console().print(table)


if __name__ == "__main__":
    main()
