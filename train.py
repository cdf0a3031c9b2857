"""Train one network and judge its best checkpoint, or sweep over many with -m.

python train.py                                     resnet18d on built-in photos
python train.py data=folder data.root=photos        your photos, one folder a class
python train.py -m model=resnet18d,mobilenetv3      a sweep, ending in a leaderboard (smaller: docs/guides/compress.md)
python train.py ckpt=runs/.../last.ckpt             go on with a run that was stopped
"""

from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from litesort.cli import compose, resume
from litesort.cli.build import build_score_and_latency, export_settings, resumed_config
from litesort.cli.launch import launch
from litesort.cli.split_origin import check_overlap, inherited_split, split_origins, split_record


def train(cfg: DictConfig, overrides: list[str] | None = None) -> dict[str, Any]:
    """Fit, then judge the best checkpoint; returns what metrics.json holds. `overrides` are noted there."""
    import pytorch_lightning as pl
    from hydra.utils import instantiate

    from evaluate import evaluate_artifact
    from lightning_modules.checkpoint import load_for_training, make_record
    from lightning_modules.objectives.base import build_objective
    from lightning_modules.precision import supported_precision
    from litesort.io import write_text
    from litesort.system import git_revision
    from loggers.wandb import finish, log_config, log_results

    build_score_and_latency(cfg)  # first: a mistake there must not cost a training
    export = instantiate(cfg.export, **export_settings(cfg))
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    origins = split_origins(cfg)
    kept = inherited_split(origins, overrides or [])
    data = instantiate(cfg.data, _partial_=True)(quarantine_dir=cfg.run_dir, **kept)
    start = cfg.ckpt or cfg.ckpt_init  # first: a wrong name costs no decoding
    net = load_for_training(start, data.classes) if start else instantiate(cfg.model, num_classes=len(data.classes))
    data.prepare_data()
    data.setup("fit")
    check_overlap(data, origins, overrides or [], cfg.get("strict", False))
    objective = build_objective(instantiate(cfg.objective, _partial_=True), data.drawn_counts)
    record = make_record(
        net, data.classes, class_counts=data.class_counts, preprocessing=data.preprocessing,
        config=compose.portable(cfg), git=git_revision(Path(__file__).parent), split=split_record(data, origins),
    )  # fmt: skip
    module = instantiate(cfg.classifier)(net, objective, instantiate(cfg.optimizer), data.classes, state_record=record)
    callbacks = {"prune": instantiate(cfg.prune), **instantiate(cfg.callbacks)}  # in this order: averages copy the net
    callback_list = list(filter(None, callbacks.values()))  # null switches one off
    loggers = list(filter(None, instantiate(cfg.logger).values()))
    precision = supported_precision(cfg.trainer.precision, cfg.trainer.accelerator)
    trainer = instantiate(cfg.trainer, precision=precision, callbacks=callback_list, logger=loggers)
    write_text(Path(cfg.run_dir) / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    log_config(loggers, compose.plain(cfg))
    trainer.fit(module, datamodule=data, ckpt_path=cfg.ckpt, weights_only=True)
    if not trainer.is_global_zero:
        return {}
    checkpoint, history = callbacks["checkpoint"], callbacks["history"]
    facts = {
        "name": cfg.name, "seed": cfg.seed, "overrides": overrides or [], "data": compose.data_name(cfg),
        "epochs": trainer.current_epoch, "train_seconds": history.train_seconds, "git": record["git"],
        "images_per_second": history.images_per_second, "precision": precision,
        "precision_requested": cfg.trainer.precision,
        "val/f1_macro": history.row(checkpoint.best_epoch).get("val/f1_macro"), "best_epoch": checkpoint.best_epoch,
        "monitor": checkpoint.monitor,
    }  # fmt: skip
    results = evaluate_artifact(checkpoint.best_model_path, data, cfg, facts, loggers=loggers)
    export(checkpoint.best_model_path)
    log_results(loggers, results, checkpoint.best_model_path)
    finish(loggers)
    return results


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> list[float | None]:
    """Run one job, unless the sweep that goes on has it; returns the sweeper's goals, else its score."""
    overrides = resume.strip_resume(HydraConfig.get().overrides.task)
    with resume.lock_folder(Path(cfg.run_dir)):
        results = resume.finished(cfg) or train(resumed_config(cfg, overrides), overrides)
    return [results.get(goal) for goal in HydraConfig.get().sweeper.get("goals", ["score"])]


if __name__ == "__main__":
    launch(main)
