"""Kill a sweep without warning, over and over, and resume it: does its end equal that of one that was left alone?

    python benchmarks/chaos.py                 # 6 jobs, 20 kills

Each kill (SIGKILL, the whole process group) comes at a random moment after the start; what it hits is printed.
Compared are all results but those that a clock measured.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TINY = (
    "model=timm", "model.name=resnet10t", "model.pretrained=false", "data.size=32", "data.batch_size=16",
    "trainer.enable_progress_bar=false", "trainer.accelerator=cpu", "latency.settings.seconds=0",
    "latency.settings.min_rounds=1", "latency.batches=[1]", "latency.end_to_end=false", "score.reference_size=32",
    "logger=none", "seed=0,1,2", "optimizer.lr=1e-3,3e-3",
)  # fmt: skip
CLOCK = (
    "second",
    "latency",
    "score",
    "rank",
    "versions",
    "ckpt",
    "time",
    "ratio",
    "front",
)  # in names of what hangs on a clock


def sweep(folder: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "train.py"), "-m", *TINY, *arguments, f"hydra.sweep.dir={folder}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, start_new_session=True, **quiet)


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Rows of the leaderboard by their folder, without what a clock measured."""
    rows = json.loads((folder / "leaderboard.json").read_text())
    return {
        row["folder"]: {key: value for key, value in row.items() if not any(part in key for part in CLOCK)}
        for row in rows
    }


def state(folder: Path) -> str:
    """What a kill hit, as far as the files tell."""
    finished = sum(json.loads(file.read_text())["status"] == "completed" for file in folder.glob("*/metrics.json"))
    half = sum(not (file.parent / "metrics.json").exists() for file in folder.glob("*/last.ckpt"))
    return f"{finished} finished, {half} half-done, {len(list(folder.glob('*/.hydra')))} begun"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--longest", type=float, default=20.0, help="seconds that a try lives at most")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["LITESORT_CACHE"] = str(Path(temporary) / "cache")
        calm, storm = Path(temporary) / "calm", Path(temporary) / "storm"
        arguments = [f"epochs={options.epochs}"]
        if sweep(calm, arguments).wait():
            raise SystemExit("the undisturbed sweep failed")
        kills = 0
        while kills < options.kills:
            job, delay = sweep(storm, [*arguments, "resume=true"]), moments.uniform(0.5, options.longest)
            try:
                job.wait(timeout=delay)
                print(f"finished before the kill after {delay:.1f} s")
                if job.returncode:
                    raise SystemExit(f"a resumed sweep failed with status {job.returncode}")
            except subprocess.TimeoutExpired:
                os.killpg(job.pid, signal.SIGKILL)
                job.wait()
            kills += 1
            print(f"kill {kills} after {delay:4.1f} s: {state(storm)}", flush=True)
        if sweep(storm, [*arguments, "resume=true"]).wait():
            raise SystemExit("the last resume failed")
        before, after = results(calm), results(storm)
    wrong = [
        (folder, key, value, after.get(folder, {}).get(key))
        for folder, row in before.items()
        for key, value in row.items()
        if after.get(folder, {}).get(key) != value
    ]
    for difference in wrong:
        print("differs:", *difference)
    equal = not wrong and before.keys() == after.keys()
    print(f"{len(after)} rows after {kills} kills: {'equal' if equal else 'NOT equal'} to the undisturbed sweep's")
    raise SystemExit(not equal)


if __name__ == "__main__":
    main()
