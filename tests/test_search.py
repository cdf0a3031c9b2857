"""Searches of a small application with the real sweeper and an Optuna study, each in a separate process."""

import json
import os
from pathlib import Path

import pytest
from entry_points import run, run_all

optuna = pytest.importorskip("optuna", reason="hydra/sweeper=tpe needs the extra [search]")
ROOT = Path(__file__).parents[1]
APP = """
import json, os
from pathlib import Path
import hydra
from hydra.core.hydra_config import HydraConfig
from litesort.cli import resume
from litesort.cli.job_request import returned_keys
from litesort.cli.launch import launch

@hydra.main(version_base="1.3", config_path=".", config_name="app")
def main(cfg):
    trial = json.loads(os.environ["LITESORT_TRIAL"])
    assert trial["number"] == HydraConfig.get().job.num
    with open("ran", "a") as file:
        print(trial["number"], file=file)
    if Path("kill").exists() and trial["number"] == 3:
        os.kill(os.getpid(), 9)
    if cfg.kind == "pruned":
        import optuna
        study = optuna.load_study(study_name="litesort", storage="sqlite:///sweep/study.db")
        current = optuna.trial.Trial(study, study.trials[trial["number"]]._trial_id)
        current.report(0.9, 0)
        current.set_user_attr("pruned", "reason")
        raise type("TrialPruned", (Exception,), {})
    if cfg.kind == "broken":
        raise KeyError("missing")
    f1 = 1 - abs(cfg.x - 0.5) + (0.1 * cfg.depth if cfg.kind == "deep" else 0)
    row = {"status": "completed", "score": 1.0, "overrides": resume.strip_resume(HydraConfig.get().overrides.task)}
    (Path(HydraConfig.get().runtime.output_dir) / "metrics.json").write_text(json.dumps(row))
    values = {"val/f1_macro": f1, "ratio_same_runtime": cfg.x, "latency_ms": 10 * cfg.x}
    return [values.get(key) for key in returned_keys(HydraConfig.get().sweeper)]

if __name__ == "__main__":
    launch(main)
"""
CONFIG = f"""
kind: flat
x: 0.0
depth: 0
resume: false
hydra:
  searchpath: ["file://{ROOT}/conf"]
  sweep: {{dir: sweep, subdir: "${{hydra:job.num}}"}}
  callbacks: {{sweep: {{_target_: litesort.cli.SweepCallback}}}}
"""
SPACE = """
defaults: [{base}, _self_]
params: {{
  model: null, prune.macs: null, data.size: null,
  augment: null, augment.transforms.ops.magnitude: null, objective: null,
  objective.gamma: null, optimizer.lr: null, kind: "choice(flat,deep)",
  depth: {{when: {{kind: [deep]}}, space: "range(1,4)"}},
  x: "interval(0,1)"
}}
"""


@pytest.fixture
def app(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "app.yaml").write_text(CONFIG)
    (tmp_path / "hydra" / "sweeper").mkdir(parents=True)
    for base in ("tpe", "pareto"):
        (tmp_path / "hydra" / "sweeper" / f"my_{base}.yaml").write_text(SPACE.format(base=base))
    return tmp_path


def search(app, sweeper, *arguments):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{app}", "COLUMNS": "200"}
    done = run(str(app / "app.py"), "-m", f"hydra/sweeper=my_{sweeper}", *arguments, cwd=app, env=environment)
    return done.returncode, done.stdout, done.stderr


def trials(app):
    return optuna.load_study(study_name="litesort", storage=f"sqlite:///{app}/sweep/study.db").trials


def test_killed_search_resumes_without_repeated_trials(app):
    (app / "kill").touch()
    status, _, err = search(app, "tpe", "hydra.sweeper.n_trials=5")
    assert status == -9, err
    assert [trial.state.name for trial in trials(app)] == ["COMPLETE"] * 3 + ["RUNNING"]
    (app / "kill").unlink()
    status, out, err = search(app, "tpe", "hydra.sweeper.n_trials=6", "resume=true")
    assert status == 0, err
    assert (app / "ran").read_text().split() == ["0", "1", "2", "3", "3", "4", "5"]
    found = trials(app)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 6
    assert len({json.dumps(trial.params) for trial in found}) == 6
    for trial in found:  # a conditional setting is present if and only if its condition holds
        assert ("depth" in trial.params) == (trial.params["kind"] == "deep")
    best = max(found, key=lambda trial: trial.value)
    assert f"job {best.number}: val/f1_macro {best.value:.4g} with {' '.join(best.user_attrs['overrides'])}" in out
    rows = json.loads((app / "sweep" / "leaderboard.json").read_text())
    assert len(rows) == 6


def test_study_continues_after_a_failed_trial(app):
    status, _, err = search(app, "tpe", "kind=choice(broken,flat)", "hydra.sweeper.n_trials=8", "hydra.sweeper.seed=1")
    found = trials(app)
    assert (status, len(found)) == (1, 8), err
    assert {trial.state.name for trial in found} == {"COMPLETE", "FAIL"}
    assert all(trial.state.name == "FAIL" for trial in found if trial.params["kind"] == "broken")


def test_finished_settings_are_not_run_twice(app):
    """No setting is run twice, in a later batch or in the same one; the first batch has four trials, two settings."""
    space = ("kind=flat", "x=choice(0.1,0.2)", "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=4")
    status, _, err = search(app, "tpe", *space)
    assert status == 0, err
    assert len((app / "ran").read_text().split()) == 2
    found = trials(app)
    assert [trial.value for trial in found] == [pytest.approx(0.5 + float(trial.params["x"])) for trial in found]
    assert all(trial.params == found[trial.user_attrs.get("same_as", trial.number)].params for trial in found)


def test_copy_of_a_pruned_or_failed_trial_has_no_result(app):
    """The study keeps the last reported value of a pruned trial, which is not a final result."""
    space = ("kind=choice(pruned,broken,flat)", "x=0.1", "hydra.sweeper.n_trials=12")
    status, out, err = search(app, "tpe", *space)
    assert status == 1, err
    states = {"pruned": "PRUNED", "broken": "FAIL", "flat": "COMPLETE"}
    found = trials(app)
    assert len(found) == 12
    assert [trial.state.name for trial in found] == [states[trial.params["kind"]] for trial in found]
    copies = [trial for trial in found if "same_as" in trial.user_attrs]
    assert {"pruned", "flat"} <= {trial.params["kind"] for trial in copies}
    assert all(trial.params == found[trial.user_attrs["same_as"]].params for trial in copies)
    ran = [int(number) for number in (app / "ran").read_text().split()]
    assert not {trial.number for trial in copies} & set(ran)
    first = min(trial.number for trial in found if trial.params["kind"] == "flat")
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("job ")] == [f"job {first}"]


def test_two_goals_give_the_feasible_pareto_front(app):
    """Macro F1 increases up to x = 0.5, latency increases with x, and the constraint allows x up to 0.3."""
    arguments = ("kind=flat", "hydra.sweeper.n_trials=12", "hydra.sweeper.constraints={latency_ms: 3}")
    status, out, err = search(app, "pareto", *arguments)
    assert status == 0, err
    study = optuna.load_study(study_name="litesort", storage=f"sqlite:///{app}/sweep/study.db")
    front = {trial.number for trial in study.best_trials}
    assert {line.split(":")[0] for line in out.splitlines() if line.startswith("job ")} == {f"job {n}" for n in front}
    assert all(trial.params["x"] <= 0.3 for trial in study.best_trials)
    assert any(trial.params["x"] > 0.3 for trial in study.trials)
    found = json.loads((app / "sweep" / "search.json").read_text())
    assert (found["metrics"], found["directions"]) == (["val/f1_macro", "ratio_same_runtime"], ["maximize", "minimize"])
    assert found["constraints"] == {"latency_ms": 3}
    assert found["importances"] == {"val/f1_macro": {"x": 1.0}, "ratio_same_runtime": {"x": 1.0}}
    assert [(t["number"], t["state"], t["params"], t["values"], t["feasible"]) for t in found["trials"]] == [
        (t.number, "complete", t.params, t.values, t.params["x"] <= 0.3) for t in study.trials
    ]


def test_unknown_constraint_ends_the_search_after_the_first_job(app):
    status, _, err = search(app, "tpe", "hydra.sweeper.n_trials=5", "hydra.sweeper.constraints={latency: 3}")
    assert status == 2
    assert "error: hydra.sweeper.constraints.latency=3: metrics.json has no such number" in err
    assert [trial.state.name for trial in trials(app)] == ["FAIL"]


INVALID = {
    "hydra.sweeper.direction=[maximize,minimize]": "give maximize or minimize for each of hydra.sweeper.metrics",
    "hydra.sweeper.direction=minimize": "set it to null",
    "x=intervall(0,1)": "x=intervall(0,1) cannot be read: intervall is not a function: choose from ",
    "hydra.sweeper.constraints={latency_ms: fast}": "constraints.latency_ms=fast is invalid",
    "hydra.sweeper.n_trials=many": "hydra.sweeper.n_trials=many is invalid",
    "hydra.sweeper.n_jobs=0": "hydra.sweeper.n_jobs=0 is invalid",
    "x=tag(log,interval(0,1))": "x=tag(log,interval(0,1)) cannot be searched: ",
    "x=interval(1,0)": "x=interval(1,0) cannot be searched: ",
    "hydra.sweeper.sampler.n_startup_trials=x": "hydra.sweeper.sampler cannot draw: ",
    "x=glob(*)": "list them in choice(...)",
    "depth=range(1,1)": "depth=range(1,1) cannot be searched: it holds no value",
    "group=choice(a,c)": "group=c cannot be composed: group=c does not exist",
    "+hydra.sweeper.params.y='interval(0,1)'": "y=0.5488135039273248 cannot be composed: y is not a setting",
    "+hydra.sweeper.params.resume={when: {kinds: flat}, space: 'choice(true)'}": "depends on kinds, which is not a",
}


def test_invalid_search_is_one_line_and_creates_no_study(app):
    (app / "group").mkdir()
    (app / "group" / "a.yaml").touch()
    (app / "app.yaml").write_text(f"defaults: [{{group: a}}, _self_]\n{CONFIG}")
    script = [str(app / "app.py"), "-m", "hydra/sweeper=my_tpe", "hydra.sweeper.n_trials=3"]
    folders = ["sweep", *(f"sweep{number}" for number in range(1, len(INVALID)))]
    commands = [[*script, invalid, f"hydra.sweep.dir={name}"] for invalid, name in zip(INVALID, folders, strict=True)]
    for result, message in zip(run_all(commands, app), INVALID.values(), strict=True):
        assert result.returncode == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    assert list(app.glob("sweep*/*")) == []  # the corrected command can use the folder
    status, _, err = search(app, "tpe", "kind=flat", "x=range(9,1,-2)", "hydra.sweeper.n_trials=3")
    assert status == 0, err
    assert {trial.state.name for trial in trials(app)} == {"COMPLETE"}
    assert {trial.params["x"] for trial in trials(app)} <= {3, 5, 7, 9}
