"""Every file of conf/callbacks and conf/logger composes. Every callback instantiates, and most run with a Trainer."""

import csv

import pytest
import pytorch_lightning as pl
from configs import composed
from hydra.utils import instantiate
from pytorch_lightning.callbacks import EarlyStopping
from tiny_training import history_rows

from litesort.cli.compose import CONF
from litesort.errors import ModelError

CALLBACKS = sorted(path.stem for path in (CONF / "callbacks").glob("*.yaml") if path.stem != "default")
LOGGERS = {path.stem: [path.stem] for path in sorted((CONF / "logger").glob("*.yaml"))}
LOGGERS |= {"wandb": ["csv", "wandb"], "none": []}  # option -> keys of cfg.logger


def compose_config(folder, *overrides):
    return composed("train", "~augment", "trainer.enable_progress_bar=false", f"run_dir={folder}", *overrides)


def build(folder, *overrides):
    cfg = compose_config(folder, *overrides)
    return list(instantiate(cfg.callbacks).values()), list(instantiate(cfg.logger).values())


@pytest.mark.parametrize("name", CALLBACKS)
def test_callback_option_joins_the_defaults(tmp_path, name):
    default = compose_config(tmp_path).callbacks
    cfg = compose_config(tmp_path) if name in default else compose_config(tmp_path, f"callbacks=[default,{name}]")
    assert cfg.callbacks.keys() == {*default, name}
    assert isinstance(instantiate(cfg.callbacks)[name], pl.Callback)


@pytest.mark.parametrize("name", LOGGERS)
def test_logger_option_composes_alone_and_beside_csv(tmp_path, name):
    assert list(compose_config(tmp_path, f"logger={name}").logger) == LOGGERS[name]
    if name != "none":
        combined = dict.fromkeys(["csv", *LOGGERS[name]])
        assert list(compose_config(tmp_path, f"logger=[csv,{name}]").logger) == list(combined)


def test_progress_bar_follows_trainer_enable_progress_bar(tmp_path):
    bars = [
        [c for c in build(tmp_path, f"trainer.enable_progress_bar={on}")[0] if isinstance(c, pl.callbacks.ProgressBar)]
        for on in ("true", "false")
    ]
    assert [len(found) for found in bars] == [1, 0]
    assert bars[0][0].refresh_rate == 10


def test_all_defaults_run_and_resume_in_one_folder(tmp_path, make_module, make_trainer, data):
    for epochs in (1, 2):
        callbacks, loggers = build(tmp_path)
        trainer = make_trainer(*callbacks, epochs=epochs, logger=loggers)
        last = tmp_path / "last.ckpt" if epochs == 2 else None
        trainer.fit(make_module(), datamodule=data, ckpt_path=last, weights_only=True)
    assert {path.name for path in tmp_path.iterdir()} == {"best.ckpt", "last.ckpt", "history.csv", "csv"}
    assert [row["epoch"] for row in history_rows(tmp_path)] == ["0", "1"]
    steps = []
    for version in (0, 1):  # the resumed run writes another version, and its steps continue
        with (tmp_path / "csv" / f"version_{version}" / "metrics.csv").open() as file:
            steps += [int(row["step"]) for row in csv.DictReader(file) if row["train/loss_step"]]
    assert len(steps) == 8
    assert steps == sorted(set(steps))


def test_early_stopping_stops(tmp_path, make_module, make_trainer, data):
    callbacks, _ = build(tmp_path, "callbacks=[default,early_stopping]", "callbacks.early_stopping.patience=2",
                         "callbacks.early_stopping.min_delta=2")  # fmt: skip
    trainer = make_trainer(*callbacks, epochs=9)
    trainer.fit(make_module(), datamodule=data)
    assert any(isinstance(callback, EarlyStopping) for callback in callbacks)
    assert trainer.current_epoch == 3


def callbacks_with_finders(folder):
    overrides = ("batch_size_finder.max_trials=2", "batch_size_finder.init_val=2", "lr_finder.num_training_steps=20",
                 "lr_finder.early_stop_threshold=null")  # fmt: skip
    chosen = [f"callbacks.{override}" for override in overrides]
    return build(folder, "callbacks=[default,batch_size_finder,lr_finder]", *chosen)[0]


def test_finder_results_set_batch_size_and_schedule_and_survive_a_resume(tmp_path, make_module, make_trainer, data):
    callbacks = callbacks_with_finders(tmp_path)
    trainer, module = make_trainer(*callbacks, epochs=3), make_module(lr=0.5)
    trainer.fit(module, datamodule=data)
    assert data.batch_size == 4
    found = callbacks[-1].optimal_lr.suggestion()
    assert module.lr == found != 0.5
    (group, *_), (schedule,) = trainer.optimizers[0].param_groups, trainer.lr_scheduler_configs
    assert group["initial_lr"] == found
    assert trainer.global_step == 3 * 8
    assert schedule.scheduler.last_epoch == 3 * 8
    assert group["lr"] == 0  # the cosine schedule ends with the run
    history = callbacks[0].rows
    assert max(row["train/lr"] for row in history) < found
    assert [row["step"] for row in history] == [8, 16, 24]

    data.batch_size = 8
    resumed = callbacks_with_finders(tmp_path)
    trainer = make_trainer(*resumed, epochs=4)
    trainer.fit(make_module(lr=0.5), datamodule=data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert data.batch_size == 4
    assert trainer.global_step == 4 * 8
    assert resumed[-1].optimal_lr is None
    assert trainer.optimizers[0].param_groups[0]["initial_lr"] == found


def test_lr_finder_without_a_result_is_an_error(tmp_path, make_module, make_trainer, data):
    callbacks, _ = build(tmp_path, "callbacks=[default,lr_finder]", "callbacks.lr_finder.num_training_steps=5")
    with pytest.raises(ModelError, match=r"num_training_steps=5 gave too few"):
        make_trainer(*callbacks).fit(make_module(), datamodule=data)


def test_early_stopping_counts_validated_epochs_only(tmp_path, make_module, make_trainer, data):
    callbacks, _ = build(tmp_path, "callbacks=[default,early_stopping]", "callbacks.early_stopping.patience=1",
                         "callbacks.early_stopping.min_delta=2")  # fmt: skip
    trainer = make_trainer(*callbacks, epochs=9, check_val_every_n_epoch=3)
    trainer.fit(make_module(), datamodule=data)
    assert trainer.current_epoch == 6


@pytest.mark.parametrize(("patience", "epochs"), [(2, 3), (4, 5)])
def test_run_that_stopped_early_continues_only_with_more_patience(
    tmp_path, make_module, make_trainer, data, patience, epochs
):
    def fit(patience, ckpt=None):
        callbacks, _ = build(tmp_path, "callbacks=[default,early_stopping]", "callbacks.early_stopping.min_delta=2",
                             f"callbacks.early_stopping.patience={patience}")  # fmt: skip
        trainer = make_trainer(*callbacks, epochs=9)
        trainer.fit(make_module(), datamodule=data, ckpt_path=ckpt, weights_only=True)
        return trainer.current_epoch

    assert fit(2) == 3
    assert fit(patience, tmp_path / "last.ckpt") == epochs
