"""Train one network and evaluate its best checkpoint, or sweep over many with -m.

python train.py                                     resnet18d on built-in images
python train.py data=folder data.root=photos        your images, one folder per class
python train.py -m model=resnet18d,mobilenetv3      a sweep, with a leaderboard at the end
python train.py ckpt=runs/.../last.ckpt             resume a run
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from litesort.cli import compose, resume
from litesort.cli.build import (
    build_score_and_latency,
    data_builder,
    export_settings,
    is_sweep,
    resumed_config,
    training_precision,
)
from litesort.cli.folders import refuse_used
from litesort.cli.job_request import returned_keys
from litesort.cli.launch import launch, phase
from litesort.cli.split_origin import check_overlap, inherited_split, split_origins, split_record
from litesort.io import write_text
from litesort.system import git_revision

if TYPE_CHECKING:
    from datamodules.datamodule import ImageDataModule
    from lightning_modules.classifier import ImageClassifier


def train(cfg: DictConfig, overrides: list[str] | None = None) -> dict[str, Any]:
    """Train one network and evaluate its best checkpoint.

    Args:
        cfg: The config of the run.
        overrides: Overrides of the command line, `key=value`; metrics.json stores them.

    Returns:
        The content of metrics.json; empty in processes other than the first.

    Raises:
        DeploymentError: At the end of a single run, if an exported file failed; all results are written.
    """
    import pytorch_lightning as pl

    from evaluate import evaluate_artifact, open_artifact
    from export import check_files
    from loggers.wandb import finish, log_config, log_results

    overrides = overrides or []
    scoring = build_score_and_latency(cfg)  # first, so that an invalid setting fails before the training
    export = instantiate(cfg.export, **export_settings(cfg))
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    module, data = build_module_and_data(cfg, overrides)
    callbacks = {"prune": instantiate(cfg.prune), **instantiate(cfg.callbacks)}  # pruning before weight averaging
    loggers = [logger for logger in instantiate(cfg.logger).values() if logger]
    with phase("choosing the precision"):
        precision = training_precision(cfg, module, data)
    enabled = [callback for callback in callbacks.values() if callback]  # null switches a callback off
    trainer = instantiate(cfg.trainer, precision=precision.name, callbacks=enabled, logger=loggers)
    write_text(Path(cfg.run_dir) / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    log_config(loggers, compose.plain(cfg))
    trainer.fit(module, datamodule=data, ckpt_path=cfg.ckpt, weights_only=True)
    if not trainer.is_global_zero:
        return {}
    best = callbacks["checkpoint"].best_model_path
    artifact, run_info = open_artifact(best, cfg), describe_run(cfg, overrides, trainer, callbacks)
    if precision.step_ms:
        run_info["precision_step_ms"] = dict(precision.step_ms)
    results = evaluate_artifact(artifact, data, cfg, scoring, run_info, loggers=loggers)
    report = export(best)
    log_results(loggers, results, best)
    finish(loggers)
    if isinstance(report, dict) and not is_sweep():  # a sweep reports failed files in its table and exit status
        check_files(report)
    return results


def build_module_and_data(cfg: DictConfig, overrides: list[str]) -> tuple["ImageClassifier", "ImageDataModule"]:
    """Build the LightningModule and the data module of a run. A run that starts from a checkpoint uses its split."""
    from lightning_modules.checkpoint import load_for_training, make_model_card
    from lightning_modules.objectives.base import build_objective

    origins = split_origins(cfg)
    split = inherited_split(origins, overrides)
    data = data_builder(cfg.data)(quarantine_dir=cfg.run_dir, **split)
    key = "ckpt" if cfg.ckpt else "ckpt_init"
    # Build the network before images are decoded, so that a wrong checkpoint fails early.
    if cfg[key]:
        net = load_for_training(cfg[key], data.classes, key)
    else:
        net = instantiate(cfg.model, num_classes=len(data.classes))
    data.prepare_data()
    data.setup("fit")
    check_overlap(data, origins, overrides, cfg.get("strict", False))
    objective = build_objective(instantiate(cfg.objective, _partial_=True), data.drawn_counts)
    card = make_model_card(
        net,
        data.classes,
        class_counts=data.class_counts,
        preprocessing=data.preprocessing,
        config=compose.portable(cfg),
        git=git_revision(Path(__file__).parent),
        split=split_record(data, origins),
    )
    optimizer = instantiate(cfg.get("optimizer"))  # a linear probe has none
    module = instantiate(cfg.classifier)(net, objective, optimizer, data.classes, model_card=card)
    return module, data


def describe_run(cfg: DictConfig, overrides: list[str], trainer: Any, callbacks: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a finished training that metrics.json stores."""
    checkpoint, history = callbacks["checkpoint"], callbacks["history"]
    return {
        "name": cfg.name,
        "seed": cfg.seed,
        "overrides": overrides,
        "data": compose.data_name(cfg),
        "epochs": trainer.current_epoch,
        "train_seconds": history.train_seconds,
        "git": trainer.lightning_module.model_card["git"],
        "images_per_second": history.images_per_second,
        "precision": trainer.precision,
        "precision_requested": cfg.trainer.precision,
        "val/f1_macro": history.row(checkpoint.best_epoch).get("val/f1_macro"),
        "best_epoch": checkpoint.best_epoch,
        "monitor": checkpoint.monitor,
    }


def _load(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """Return the config of a run; checking it imports PyTorch and Lightning."""
    with phase("loading PyTorch and Lightning"):
        return resumed_config(cfg, overrides)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> list[float | None]:
    """Run one job, unless it is finished in a resumed sweep; returns the values that the sweeper needs."""
    overrides, folder = resume.strip_resume(HydraConfig.get().overrides.task), Path(cfg.run_dir)
    with resume.lock_folder(folder):
        if not is_sweep() and not os.environ.get("LOCAL_RANK"):  # not in a further process of the run itself
            refuse_used(folder, cfg.ckpt, resumes=True)  # another run may have ended during the wait for the lock
        results = resume.finished(cfg) or train(_load(cfg, overrides), overrides)
    return [results.get(key) for key in returned_keys(HydraConfig.get().sweeper)]


if __name__ == "__main__":
    launch(main)
