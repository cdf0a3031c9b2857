"""Sweeps of tiny trainings: resumed, and with each launcher."""

import importlib.util
import json
import os
import signal
import time
from pathlib import Path

import entry_points
import pytest
from configs import TINY_RUN

ROOT = Path(__file__).parent.parent
TINY = (*TINY_RUN, "epochs=2", "latency.end_to_end=false", "logger=none")
LAUNCHERS = {"slurm_local": "hydra_plugins.hydra_submitit_launcher", "ray": "hydra_plugins.hydra_ray_launcher"}


def start(folder, image_folder, *arguments, **environment):
    own = (*TINY, f"data.root={image_folder}", *arguments, f"hydra.sweep.dir={folder / 'sweep'}")
    env = {**os.environ, "LITESORT_CACHE": str(folder / "cache"), **environment}
    return entry_points.start("train.py", "-m", *own, cwd=folder, env=env)


def finish(sweep):
    out, err = sweep.communicate(timeout=400)
    return sweep.returncode, out, err


def rows(folder):
    return {row["seed"]: row for row in json.loads((folder / "sweep" / "leaderboard.json").read_text())}


def wait_for(sweep, folder, pattern):
    while sweep.poll() is None:
        if found := sorted(folder.glob(pattern)):
            return found[0]
        time.sleep(0.005)
    raise AssertionError(sweep.communicate())


def test_killed_job_is_a_failed_row_and_continues_on_resume(image_folder, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra [joblib]")
    command = (
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "seed=0,1",
        "epochs=3",
        "latency.settings.threads=null",
    )
    sweep = start(tmp_path, image_folder, *command)
    killed = wait_for(sweep, tmp_path, "sweep/1-*/last.ckpt").parent
    os.kill(json.loads((killed / ".hydra" / "request.json").read_text())["pid"], signal.SIGKILL)
    status, _, err = finish(sweep)
    assert status == 1, err
    assert (rows(tmp_path)[0]["status"], rows(tmp_path)[1]["status"]) == ("completed", "failed")
    assert "killed" in rows(tmp_path)[1]["error"]
    assert "killed" in (killed / "error.log").read_text()
    assert len(list((tmp_path / "cache").glob("*/"))) == 1  # the two concurrent jobs decode the images once
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "sweep").glob("0-*/*.ckpt")}
    status, _, err = finish(start(tmp_path, image_folder, *command, "resume=true"))
    assert status == 0, err
    assert {row["status"] for row in rows(tmp_path).values()} == {"completed"}
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "sweep").glob("0-*/*.ckpt")}
    assert len((killed / "history.csv").read_text().splitlines()) == 1 + 3
    evaluated = [json.loads(file.read_text()) for file in (tmp_path / "sweep").glob("*/metrics.json")]
    assert {result["latency"][0]["threads"] for result in evaluated} == {max(len(os.sched_getaffinity(0)) // 2, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_run_two_jobs(launcher, image_folder, tmp_path):
    if importlib.util.find_spec(LAUNCHERS[launcher]) is None:
        pytest.skip(f"hydra/launcher={launcher} needs an extra that is not installed")
    status, _, err = finish(start(tmp_path, image_folder, f"hydra/launcher={launcher}", "seed=0,1", "epochs=1"))
    assert status == 0, err
    assert {seed: row["status"] for seed, row in rows(tmp_path).items()} == {0: "completed", 1: "completed"}


def test_ctrl_c_stops_after_the_epoch_and_writes_the_leaderboard(image_folder, tmp_path):
    sweep = start(tmp_path, image_folder, "seed=0,1", "epochs=200")
    folder = wait_for(sweep, tmp_path, "sweep/0-*/last.ckpt").parent
    sweep.send_signal(signal.SIGINT)
    status, out, _ = finish(sweep)
    assert status == 1
    assert "stopping after this epoch" in out
    stopped = int(out.split("stopped after ")[1].split()[0])
    assert len((folder / "history.csv").read_text().splitlines()) == 1 + stopped  # each epoch is complete
    assert not list((tmp_path / "sweep").glob("1-*"))
    board = json.loads((tmp_path / "sweep" / "leaderboard.json").read_text())
    assert [row["status"] for row in board] == ["failed"]


@pytest.mark.slow
def test_two_processes_of_a_sweep_job_leave_one_row(image_folder, tmp_path):
    status, _, err = finish(start(tmp_path, image_folder, "trainer=ddp", "trainer.devices=2", "seed=0,1", "epochs=1"))
    assert status == 0, err
    assert {seed: row["status"] for seed, row in rows(tmp_path).items()} == {0: "completed", 1: "completed"}
    assert len(list(tmp_path.rglob("metrics.json"))) == 2
    assert len(list(tmp_path.rglob("leaderboard.json"))) == 1
