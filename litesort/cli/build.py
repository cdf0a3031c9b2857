"""Build from a config: the config of a resumed run, score and latency, the images of a checkpoint."""

import logging
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from litesort.cli.compose import data_name, init_from, merge_overrides, plain
from litesort.cli.resume import resume_checkpoint
from litesort.cli.split_origin import evaluated_split
from litesort.cli.stored_config import data_builder, images_name, stored_data, stored_name
from litesort.cli.validate import check

if TYPE_CHECKING:
    from datamodules.datamodule import ImageDataModule
    from deployment.latency.benchmark import LatencyBenchmark
    from deployment.score import Score

log = logging.getLogger(__name__)


def resumed_config(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """The config of the run that `ckpt` or `ckpt_init` belongs to, with the command line's values on top.

    ModelError where it would build what neither `conf/` nor the command line names: a file is not to run anything.
    """
    from lightning_modules.checkpoint import read_checkpoint

    if cfg.ckpt or cfg.ckpt_init:
        stored = read_checkpoint(cfg.ckpt or cfg.ckpt_init)["litesort"]["config"]
        cfg = (merge_overrides if cfg.ckpt else init_from)(cfg, stored, overrides)
    cfg.ckpt = cfg.ckpt or resume_checkpoint(cfg)
    if cfg.teacher and "teacher" not in cfg.objective and _is_sweep():
        log.warning("teacher=%s is not for this job: its objective learns from labels alone", cfg.teacher)
        cfg.teacher = None
    return check(cfg)


def _is_sweep() -> bool:
    """Whether this is one job of several, of which others may have a use for what this one has none for."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode in (RunMode.MULTIRUN, RunMode.MULTIRUN.name)


def build_score_and_latency(cfg: DictConfig) -> tuple["Score", "LatencyBenchmark"]:
    """The score and the clocks that it reads; a training asks first, since a mistake in them must not cost it."""
    import timm
    from hydra.utils import instantiate

    from litesort.errors import DeploymentError

    score, benchmark = instantiate(cfg.score), instantiate(cfg.latency)
    score.check(benchmark.batches, benchmark.end_to_end)
    if not timm.is_model(score.reference):
        raise DeploymentError(f"score.reference={score.reference} is not a timm model: leave it at resnet18d")
    return score, benchmark


def export_settings(cfg: DictConfig) -> dict[str, Any]:
    """Settings that the export at the end of a run takes from the run: its data, where their source is the user's own.

    A checkpoint may name only sources of litesort, so an export cannot build another one from it.
    """
    if "format" not in cfg.export or str(cfg.data.source._target_).startswith("datamodules."):
        return {}
    left_out = ("sampler", "augment", "fold", "folds")  # those of a training
    return {"data": {key: value for key, value in plain(cfg.data).items() if key not in left_out}}


def load_data(record: dict[str, Any], cfg: DictConfig) -> tuple["ImageDataModule", Any, dict[str, Any]]:
    """The photos to judge on, the checkpoint's own where `data` is silent; which split of them; facts to report."""
    from hydra.utils import instantiate

    from litesort.errors import DataError

    said = {key: value for key, value in cfg.data.items_ex(resolve=False) if value is not None}
    other = bool(said.keys() & {"_target_", "root", "file"})
    if "_target_" in said:
        build, images = instantiate(cfg.data, _partial_=True), data_name(cfg)
    else:
        settings = stored_data(record["config"], {key: plain(cfg.data)[key] for key in said})
        build, images = data_builder(settings), images_name(settings)
    square = {key: record["preprocessing"][key] for key in ("size", "resize")}
    if {"fold", "folds"} & said.keys():
        raise DataError("data.fold and data.folds are settings of a training: leave them out, the split is the run's")
    data = build(  # values: no config reads them
        classes=record["classes"], quarantine_dir=cfg.run_dir, stored_split=record.get("split"), **square
    )
    data.prepare_data()
    data.setup("test")
    facts = {"name": stored_name(record["config"]), "data": images}
    return data, evaluated_split(data, cfg.split, other), facts
