"""A run that is a trial reports its scores to a real study and is pruned where the study says so."""

import json

import pytest
import pytorch_lightning as pl

from callbacks.optuna_pruning import TrialPruned, TrialReport

optuna = pytest.importorskip("optuna", reason="needs the extra [search]")


class Scores(pl.Callback):
    def __init__(self, *scores):
        self.scores = scores

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("reached", self.scores[trainer.current_epoch])


@pytest.fixture
def study(tmp_path):
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db", study_name="s", direction="maximize")
    for _ in range(3):
        trial = study.ask()
        for epoch in range(3):
            trial.report(0.8, epoch)
        study.tell(trial, 0.8)
    return study


def report(study, tmp_path, startup=2, warmup=1):
    place = {"storage": f"sqlite:///{tmp_path}/study.db", "name": "s", "number": study.ask().number}
    return TrialReport(json.dumps(place | {"startup_trials": startup, "warmup_epochs": warmup}), monitor="reached")


def test_bad_trial_is_pruned_after_its_warm_up(tmp_path, study, make_module, make_trainer, data):
    trainer = make_trainer(Scores(0.1, 0.2, 0.9), report(study, tmp_path))
    with pytest.raises(TrialPruned, match=r"after 2 epochs: reached 0\.2000"):
        trainer.fit(make_module(), datamodule=data)
    (mine,) = [trial for trial in study.trials if not trial.state.is_finished()]
    assert mine.intermediate_values == {0: pytest.approx(0.1), 1: pytest.approx(0.2)}
    assert "pruned" in mine.user_attrs


@pytest.mark.parametrize(("scores", "startup"), [((0.9, 0.9, 0.9), 2), ((0.1, 0.1, 0.1), 9)])
def test_good_trials_and_startup_trials_are_not_pruned(
    tmp_path, study, make_module, make_trainer, data, scores, startup
):
    trainer = make_trainer(Scores(*scores), report(study, tmp_path, startup=startup))
    trainer.fit(make_module(), datamodule=data)
    assert trainer.current_epoch == 3


def test_run_without_a_study_is_not_pruned(make_module, make_trainer, data):
    trainer = make_trainer(TrialReport(None), TrialReport(""), epochs=1)
    trainer.fit(make_module(), datamodule=data)
    assert trainer.current_epoch == 1


def test_only_validated_epochs_are_reported(tmp_path, study, make_module, make_trainer, data):
    trial = report(study, tmp_path, startup=9)
    make_trainer(Scores(0.1, 0.2, 0.9), trial, check_val_every_n_epoch=2).fit(make_module(), datamodule=data)
    (mine,) = [trial for trial in study.trials if not trial.state.is_finished()]
    assert mine.intermediate_values == {1: pytest.approx(0.2)}
