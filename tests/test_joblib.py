"""Sweeps of a small application with hydra/launcher=joblib: every job has a row, even if its process is killed."""

import json
import os
from pathlib import Path

import entry_points
import pytest

pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra [joblib]")
ROOT = Path(__file__).parents[1]
KILLER = """
import os
from pathlib import Path
from hydra.experimental.callback import Callback

class Killer(Callback):
    def on_job_start(self, config, **kwargs):
        if config.act == "early" and not Path("fixed").exists():
            os.kill(os.getpid(), 9)
"""
APP = """
import json, os, signal, threading
from pathlib import Path
import hydra
from hydra.core.hydra_config import HydraConfig

class SIGTERMException(SystemExit):
    pass

def exit_on_signal(*_):
    raise SIGTERMException

@hydra.main(version_base="1.3", config_path=".", config_name="app")
def main(cfg):
    if cfg.act == "terminated" and not Path("fixed").exists():
        signal.signal(signal.SIGTERM, exit_on_signal)
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    row = {"status": "completed", "score": cfg.score, "overrides": [f"act={cfg.act}"]}
    (Path(HydraConfig.get().runtime.output_dir) / "metrics.json").write_text(json.dumps(row))
    if cfg.act == "late":
        os.kill(os.getpid(), 9)
    return threading.Lock() if cfg.act == "unpicklable" else cfg.score

if __name__ == "__main__":
    main()
"""
CONFIG = """
act: fine
score: 1.0
seed: 3
model: {name: tiny}
resume: false
hydra:
  sweep: {dir: sweep, subdir: "${hydra:job.num}/${act}"}
  callbacks:
    killer: {_target_: killer.Killer}
    sweep: {_target_: litesort.cli.SweepCallback}
"""


@pytest.fixture
def app(tmp_path):
    (tmp_path / "killer.py").write_text(KILLER)
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "app.yaml").write_text(CONFIG)
    (tmp_path / "hydra" / "launcher").mkdir(parents=True)
    (tmp_path / "hydra" / "launcher" / "slots.yaml").write_text((ROOT / "conf/hydra/launcher/joblib.yaml").read_text())
    return tmp_path


def sweep(app, acts, *arguments):
    command = ["-m", "hydra/launcher=slots", "hydra.launcher.n_jobs=1", f"act={acts}", *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{app}", "COLUMNS": "200"}
    done = entry_points.run(str(app / "app.py"), *command, cwd=app, env=environment)
    board = app / "sweep" / "leaderboard.json"
    rows = json.loads(board.read_text()) if board.exists() else []
    return done.returncode, {row["overrides"][0].removeprefix("act="): row for row in rows}, done.stderr


def test_job_of_a_killed_process_is_a_failed_row_until_it_is_resumed(app):
    status, rows, err = sweep(app, "early,fine,terminated,last")
    assert status == 1, err
    assert {act: row["status"] for act, row in rows.items()} == {
        "early": "failed", "fine": "completed", "terminated": "failed", "last": "completed"
    }  # fmt: skip
    for act, number in (("early", 0), ("terminated", 2)):
        assert "killed" in rows[act]["error"]
        assert (rows[act]["folder"], rows[act]["model"], rows[act]["seed"]) == (f"{number}/{act}", "tiny", 3)
        assert "SIG" in (app / "sweep" / rows[act]["folder"] / "error.log").read_text()
    (app / "fixed").touch()
    status, rows, err = sweep(app, "early,fine,terminated,last", "resume=true")
    assert status == 0, err
    assert len(rows) == 4
    assert {row["status"] for row in rows.values()} == {"completed"}
    assert not list(app.glob("sweep/**/error.log"))


def test_n_jobs_of_a_wrong_type_is_a_one_line_error(app):
    status, rows, err = sweep(app, "fine,last", "hydra.launcher.n_jobs=two")
    assert (status, rows) == (2, {})
    assert err == "error: hydra.launcher.n_jobs=two is invalid: expected an integer\n"


def test_finished_job_keeps_its_result_if_its_process_is_killed(app):
    status, rows, err = sweep(app, "late,fine")
    assert status == 0, err
    assert {act: row["status"] for act, row in rows.items()} == {"late": "completed", "fine": "completed"}


def test_unpicklable_result_does_not_affect_later_jobs(app):
    status, rows, err = sweep(app, "unpicklable,fine")
    assert status == 0, err
    assert {act: row["status"] for act, row in rows.items()} == {"unpicklable": "completed", "fine": "completed"}
