"""OptunaPruning: a run reports its metric to a real Optuna study, which may prune it."""

import json

import pytest
from tiny_training import Scores

from callbacks.optuna_pruning import OptunaPruning, TrialPruned

optuna = pytest.importorskip("optuna", reason="needs the extra [search]")


@pytest.fixture
def study(tmp_path):
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db", study_name="s", direction="maximize")
    for _ in range(3):
        trial = study.ask()
        for epoch in range(3):
            trial.report(0.8, epoch)
        study.tell(trial, 0.8)
    return study


def trial_report(study, tmp_path, startup=2, warmup=1):
    trial = {"storage": f"sqlite:///{tmp_path}/study.db", "name": "s", "number": study.ask().number}
    return OptunaPruning(json.dumps(trial | {"startup_trials": startup, "warmup_epochs": warmup}), monitor="score")


def test_bad_trial_is_pruned_after_its_warm_up(tmp_path, study, make_module, make_trainer, data):
    trainer = make_trainer(Scores(0.1, 0.2, 0.9), trial_report(study, tmp_path))
    with pytest.raises(TrialPruned, match=r"after 2 epochs: score 0\.2000"):
        trainer.fit(make_module(), datamodule=data)
    (own,) = [trial for trial in study.trials if not trial.state.is_finished()]
    assert own.intermediate_values == {0: pytest.approx(0.1), 1: pytest.approx(0.2)}
    assert "pruned" in own.user_attrs


@pytest.mark.parametrize(("scores", "startup"), [((0.9, 0.9, 0.9), 2), ((0.1, 0.1, 0.1), 9)])
def test_good_trials_and_startup_trials_are_not_pruned(
    tmp_path, study, make_module, make_trainer, data, scores, startup
):
    trainer = make_trainer(Scores(*scores), trial_report(study, tmp_path, startup=startup))
    trainer.fit(make_module(), datamodule=data)
    assert trainer.current_epoch == 3


def test_run_without_a_study_is_not_pruned(make_module, make_trainer, data):
    trainer = make_trainer(OptunaPruning(None), OptunaPruning(""), epochs=1)
    trainer.fit(make_module(), datamodule=data)
    assert trainer.current_epoch == 1


def test_only_validated_epochs_are_reported(tmp_path, study, make_module, make_trainer, data):
    callback = trial_report(study, tmp_path, startup=9)
    make_trainer(Scores(0.1, 0.2, 0.9), callback, check_val_every_n_epoch=2).fit(make_module(), datamodule=data)
    (own,) = [trial for trial in study.trials if not trial.state.is_finished()]
    assert own.intermediate_values == {1: pytest.approx(0.2)}
