"""Single runs and sweeps of a small application with the real callback, each in a separate process."""

import csv
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import entry_points
import pytest

from litesort.cli.sweep_callback import AtExit, SweepCallback

ROOT = Path(__file__).parents[2]
APP = """
import errno, json, os, time
from pathlib import Path
import hydra
from litesort.errors import DataError
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf

def bad_data(**kwargs):
    raise DataError("data.root=/x does not exist:\\n give a folder")

@hydra.main(version_base="1.3", config_path=".", config_name="app")
def main(cfg):
    print("group", os.environ.get("WANDB_RUN_GROUP"))
    folder = Path(HydraConfig.get().runtime.output_dir)
    if cfg.act == "user_error":
        instantiate({"outer": {"_target_": "app.bad_data"}})
    if cfg.act == "missing":
        return cfg.needed
    if cfg.act == "bug":
        return {}["key"]
    if cfg.act == "full":  # simulates a full disk, on which error.log cannot be written either
        (folder / "error.log").mkdir()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "export.json")
    if cfg.act == "memory":
        raise MemoryError
    if cfg.act == "kill":
        os.kill(os.getpid(), 9)
    if cfg.act == "interrupt":
        print("waiting", flush=True)
        time.sleep(60)
    row = {"status": "completed", "name": cfg.act, "model": cfg.model.name, "seed": cfg.seed, "score": cfg.score,
           "test/f1_macro": 0.5, "latency_ms": 1.0}
    (folder / "metrics.json").write_text(json.dumps(row))
    if cfg.act == "file":
        (folder / "exported").mkdir()
        failed = {"file": "model-fp32.onnx", "status": "failed", "error": "differs"}
        (folder / "exported" / "export.json").write_text(json.dumps({"rows": [failed]}))
    return cfg.score

if __name__ == "__main__":
    main()
"""
CONFIG = """
act: fine
needed: ???
seed: 0
score: 1.0
model: {name: tiny}
hydra:
  output_subdir: .hydra
  run: {dir: run}
  sweep: {dir: sweep, subdir: "${hydra:job.num}"}
  callbacks: {sweep: {_target_: litesort.cli.SweepCallback}}
"""


@pytest.fixture
def app(tmp_path):
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    (tmp_path / "app.yaml").write_text(CONFIG)
    return tmp_path


def start(app, *arguments, **environment):
    env = {**os.environ, "PYTHONPATH": str(app), "COLUMNS": "200", **environment}
    return entry_points.start(str(app / "app.py"), *arguments, cwd=app, env=env)


def run(app, *arguments, **environment):
    job = start(app, *arguments, **environment)
    out, err = job.communicate(timeout=60)
    return job.returncode, out, err


def leaderboard(app):
    return json.loads((app / "sweep" / "leaderboard.json").read_text())


def test_user_error_is_one_line_and_status_2(app):
    status, _, err = run(app, "act=user_error")
    assert (status, err) == (2, "error: data.root=/x does not exist: give a folder\n")
    assert "DataError" in (app / "run" / "error.log").read_text()
    assert "Traceback" in (app / "run" / "error.log").read_text()


def test_a_full_disk_is_one_line(app):
    status, _, err = run(app, "act=full")
    assert (status, err) == (2, "error: export.json cannot be written: the disk is full: free some space\n")


def test_missing_value_is_a_user_error(app):
    status, _, err = run(app, "act=missing")
    assert status == 2
    assert err.startswith("error: Missing mandatory value: needed")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("act", "full"), [("bug", "0"), ("user_error", "1")])
def test_other_errors_keep_their_traceback(app, act, full):
    status, _, err = run(app, f"act={act}", HYDRA_FULL_ERROR=full)
    assert status == 1
    assert {"bug": "KeyError: 'key'", "user_error": "DataError"}[act] in err
    assert "Traceback" in err
    assert (app / "run" / "error.log").exists()


def test_successful_run_writes_no_error_log(app):
    status, out, err = run(app)
    assert (status, err) == (0, "")
    assert "group None" in out
    assert not (app / "run" / "error.log").exists()


def test_sweep_continues_after_failures_and_ranks_the_jobs(app):
    status, out, err = run(app, "-m", "act=user_error,bug,memory,fine,missing", "score=2", "seed=7")
    assert status == 1
    rows = leaderboard(app)
    assert [row["status"] for row in rows] == ["completed"] + ["failed"] * 4
    failed = {row["overrides"][0]: row for row in rows[1:]}
    assert failed["act=user_error"]["error"] == "data.root=/x does not exist: give a folder"
    assert failed["act=bug"]["error"] == "KeyError: 'key'"
    assert failed["act=memory"]["error"] == "MemoryError: MemoryError"
    assert failed["act=missing"]["error"].startswith("Missing mandatory value: needed")
    assert {(row["model"], row["seed"]) for row in failed.values()} == {("tiny", 7)}
    assert failed["act=bug"]["overrides"] == ["act=bug", "score=2", "seed=7"]
    for row in failed.values():
        assert "Traceback" in (app / "sweep" / row["folder"] / "error.log").read_text()
    lines = err.splitlines()
    assert len(lines) == 5
    assert lines[0] == "error: job 0 (act=user_error score=2 seed=7): data.root=/x does not exist: give a folder"
    assert lines[4].startswith("4 of 5 jobs failed")
    assert out.count("group sweep") == 5
    for suffix in ("csv", "json", "md", "png"):
        assert f"leaderboard.{suffix}" in out
        assert (app / "sweep" / f"leaderboard.{suffix}").stat().st_size
    with (app / "sweep" / "leaderboard.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 5


def test_a_sweep_without_failures_is_status_0(app):
    status, _, err = run(app, "-m", "score=3,1,2")
    assert (status, err) == (0, "")
    assert [row["score"] for row in leaderboard(app)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("hydra/launcher=basic",), "hydra/launcher=basic needs a sweep: add -m, or leave it out"),
        (
            ("-m", "score=range(1,1)"),
            "score=range(1,1) gives no value, so no job would run: correct it",
        ),
    ],
)
def test_a_sweep_without_effect_is_refused(app, arguments, line):
    assert run(app, *arguments) == (2, "", f"error: {line}\n")


def test_a_failed_file_of_a_sweep_is_a_row_and_an_exit_status(app):
    status, out, err = run(app, "-m", "act=fine,file")
    assert (status, err) == (1, "1 of 1 exported files failed; see the leaderboard for the reasons\n")
    assert [(row["status"], row.get("file")) for row in leaderboard(app)] == [
        ("completed", None), ("completed", None), ("failed", "model-fp32.onnx"),
    ]  # fmt: skip
    assert "failed: tiny: differs" in out


def test_ctrl_c_ranks_the_finished_jobs(app):
    job = start(app, "-m", "act=fine,bug,interrupt,never", PYTHONUNBUFFERED="1")
    while "waiting" not in (job.output / "out").read_text():
        assert job.poll() is None
        time.sleep(0.05)
    time.sleep(0.2)
    job.send_signal(signal.SIGINT)
    out, err = job.communicate(timeout=60)
    assert job.returncode != 0
    assert "interrupted" in err
    assert "Leaderboard" in out
    rows = leaderboard(app)
    assert [row["status"] for row in rows] == ["completed", "failed", "failed"]
    assert rows[2]["overrides"] == ["act=interrupt"]


def test_importing_the_callback_loads_nothing_heavy():
    heavy = ("torch", "numpy", "rich", "wandb")
    code = f"import sys, litesort.cli.sweep_callback; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ
    ).stdout
    assert out.strip() == "[]"


def test_sweep_callback_can_be_pickled(tmp_path):
    callback = SweepCallback()
    callback._at_exit = AtExit(tmp_path)
    assert pickle.loads(pickle.dumps(callback))._at_exit.folder == tmp_path
