"""A sweep that is killed at random times and resumed gives the results of an uninterrupted sweep."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from configs import QUICK_LATENCY, QUIET_CPU, TINY_NET

ROOT = Path(__file__).parents[1]
TINY = (
    *TINY_NET, *QUIET_CPU, *QUICK_LATENCY, "data.size=32", "data.batch_size=16", "latency.end_to_end=false",
    "logger=none", "seed=0,1,2", "optimizer.lr=1e-3,3e-3",
)  # fmt: skip
# Parts of the keys whose values differ between two runs: measured times, what depends on them, the load of the machine,
# the commit, and paths.
VARIABLE = ("second", "latency", "score", "rank", "versions", "ckpt", "time", "ratio", "front", "machine", "git")


def sweep(folder: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "train.py"), "-m", *TINY, *arguments, f"hydra.sweep.dir={folder}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, start_new_session=True, **quiet)


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Rows of the leaderboard by folder, without the keys of VARIABLE."""
    rows = json.loads((folder / "leaderboard.json").read_text())
    return {
        row["folder"]: {key: value for key, value in row.items() if not any(part in key for part in VARIABLE)}
        for row in rows
    }


@pytest.mark.slow
def test_sweep_killed_20_times_equals_an_uninterrupted_sweep(tmp_path, monkeypatch):
    monkeypatch.setenv("LITESORT_CACHE", str(tmp_path / "cache"))
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    delays = random.Random(0)
    assert sweep(uninterrupted, ["epochs=4"]).wait() == 0
    for _ in range(20):
        job = sweep(killed, ["epochs=4", "resume=true"])
        try:
            assert job.wait(timeout=delays.uniform(0.5, 20.0)) == 0
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)  # the whole process group
            job.wait()
    assert sweep(killed, ["epochs=4", "resume=true"]).wait() == 0
    assert results(killed) == results(uninterrupted)
