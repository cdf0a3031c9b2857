"""Resumed sweeps of a small application with the real callback; each sweep runs in a separate process."""

import json
import os
import signal
import threading
from pathlib import Path

import entry_points
import pytest

from litesort.cli import resume

ROOT = Path(__file__).parents[2]
APP = """
import json, os
from pathlib import Path
import hydra
from hydra.core.hydra_config import HydraConfig
from litesort.cli import compose, resume

@hydra.main(version_base="1.3", config_path=".", config_name="app")
def main(cfg):
    with resume.lock_folder(Path(cfg.run_dir)):
        if resume.finished(cfg):
            return
        with open("ran", "a") as file:
            print(cfg.model.name, resume.resume_checkpoint(cfg) is not None, file=file)
        if Path("kill").exists() and cfg.model.name == "b":
            (Path(cfg.run_dir) / "last.ckpt").touch()
            os.kill(os.getpid(), 9)
        if Path("fail").exists() and cfg.model.name == "a":
            raise KeyError("missing")
        row = {"status": "completed", "model": cfg.model.name, "score": cfg.score,
               "overrides": resume.strip_resume(HydraConfig.get().overrides.task)}
        (Path(cfg.run_dir) / "metrics.json").write_text(json.dumps(row))

if __name__ == "__main__":
    main()
"""
CONFIG = """
defaults: [{model: a}, _self_]
score: 1.0
resume: false
tags: []
run_dir: ${hydra:runtime.output_dir}
hydra:
  sweep: {dir: sweep, subdir: "${hydra:job.num}-${hydra:job.override_dirname}"}
  job: {config: {override_dirname: {kv_sep: "-", item_sep: "__", exclude_keys: "${unnamed_keys:[score]}"}}}
  callbacks: {sweep: {_target_: litesort.cli.SweepCallback}}
"""


@pytest.fixture
def app(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "app.yaml").write_text(CONFIG)
    (tmp_path / "model").mkdir()
    for name in "abc":
        (tmp_path / "model" / f"{name}.yaml").write_text(f"name: {name}\nwidth: 1\n")
    return tmp_path


def sweep(app, *arguments):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{app}", "COLUMNS": "200"}
    done = entry_points.run(str(app / "app.py"), "-m", *arguments, cwd=app, env=environment)
    ran = (app / "ran").read_text().split("\n")[:-1] if (app / "ran").exists() else []
    (app / "ran").unlink(missing_ok=True)
    return done.returncode, done.stderr, ran


def rows(app):
    return {row["model"]: row for row in json.loads((app / "sweep" / "leaderboard.json").read_text())}


def test_resume_runs_unfinished_jobs_only(app):
    for flag in ("kill", "fail"):
        (app / flag).touch()
    status, _, ran = sweep(app, "score=1.0", "model=a,c,b")
    assert (status, ran) == (-signal.SIGKILL, ["a False", "c False", "b False"])
    assert "KeyError: 'missing'" in (app / "sweep" / "0-model-a" / "error.log").read_text()
    for flag in ("kill", "fail"):
        (app / flag).unlink()
    status, err, ran = sweep(app, "model=a,c,b", "score=1.0", "resume=true", "tags=[late]")
    assert (status, err) == (0, "")
    assert ran == ["a False", "b True"]  # c is finished, b is resumed from its checkpoint
    assert not (app / "sweep" / "0-model-a" / "error.log").exists()
    assert {row["status"] for row in rows(app).values()} == {"completed"}
    # the order of overrides with one value may differ
    assert rows(app)["b"]["overrides"] == ["model=b", "score=1.0", "tags=[late]"]


def test_killed_job_continues_when_the_sweep_is_resumed(app):
    (app / "kill").touch()
    sweep(app, "model=b,c")
    (app / "model" / "c.yaml").write_text("name: c\nwidth: 2\n")  # allowed, because this job has not started
    assert sweep(app, "model=b,c", "resume=true")[0] == -signal.SIGKILL
    (app / "kill").unlink()
    assert sweep(app, "model=b,c", "resume=true")[2] == ["b True", "c False"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=a,c"], "holds a sweep: add resume=true"),
        (["model=a,b", "resume=true"], "model=a,b: the sweep in sweep was started with model=a,c"),
        (["model=a,c", "score=2", "resume=true"], "score=2: the sweep in sweep was started with score=unset"),
        (["model=a,c", "resume=true", "hydra.sweep.subdir=x"], "hydra.sweep.subdir=x: "),
    ],
)
def test_another_sweep_is_refused_in_one_line(app, arguments, message):
    sweep(app, "model=a,c")
    before = {file: file.read_bytes() for file in (app / "sweep").rglob("*.json")}
    status, err, ran = sweep(app, *arguments)
    assert (status, ran) == (2, [])
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert before == {file: file.read_bytes() for file in (app / "sweep").rglob("*.json")}


def test_changed_config_file_is_refused(app):
    sweep(app, "model=a,c")
    (app / "model" / "c.yaml").write_text("name: c\nwidth: 2\n")
    status, err, ran = sweep(app, "model=a,c", "resume=true")
    assert (status, ran) == (2, [])
    assert "model.width was 1 when sweep/1-model-c was started and is 2 now" in err
    (app / "model" / "c.yaml").unlink()
    status, err, _ = sweep(app, "model=a,c", "resume=true")
    assert status == 2
    assert err.count("\n") == 1


def test_lock_folder_waits_until_the_lock_is_released(tmp_path):
    notices, entered = [], threading.Event()

    def second():
        with resume.lock_folder(tmp_path, notify=notices.append):
            entered.set()

    with resume.lock_folder(tmp_path):
        other = threading.Thread(target=second)
        other.start()
        while not notices:
            assert other.is_alive()
        assert not entered.is_set()
    other.join(timeout=10)
    assert entered.is_set()
    assert notices == [f"{tmp_path} is locked by another process (pid {os.getpid()}); waiting"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' + "[" * 90 + "]" * 90 + "}"])
def test_sweep_file_that_is_too_deep_is_not_read(tmp_path, text):
    (tmp_path / resume.SWEEP).write_text(text)
    assert resume.read(tmp_path / resume.SWEEP) is None
