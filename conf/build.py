"""What entry points make of a config: one that goes on, the judges, the photos of a checkpoint, what ships it."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from conf import begun, data_name, merged, on_top, plain
from conf.check import check
from conf.resume import half_done
from conf.split_origin import evaluated_split
from conf.stored_config import data_builder, images_name, stored_data, stored_name

if TYPE_CHECKING:
    from datamodules.waste import WasteDataModule
    from deployment.clocks import Clocks
    from deployment.score import Score

log = logging.getLogger(__name__)


def continued(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """The config of the run that `ckpt` or `ckpt_init` belongs to, with the command line's values on top.

    ModelError where it would build what neither `conf/` nor the command line names: a file is not to run anything.
    """
    from lightning_modules.checkpoint import read_checkpoint

    if cfg.ckpt or cfg.ckpt_init:
        stored = read_checkpoint(cfg.ckpt or cfg.ckpt_init)["litesort"]["config"]
        cfg = (on_top if cfg.ckpt else begun)(cfg, stored, overrides)
    cfg.ckpt = cfg.ckpt or half_done(cfg)
    if cfg.teacher and "teacher" not in cfg.objective and _is_sweep():
        log.warning("teacher=%s is not for this job: its objective learns from labels alone", cfg.teacher)
        cfg.teacher = None
    return check(cfg)


def _is_sweep() -> bool:
    """Whether this is one job of several, of which others may have a use for what this one has none for."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode in (RunMode.MULTIRUN, RunMode.MULTIRUN.name)


def judges(cfg: DictConfig) -> tuple["Score", "Clocks"]:
    """The score and the clocks that it reads; a training asks first, since a mistake in them must not cost it."""
    import timm
    from hydra.utils import instantiate

    from deployment import DeploymentError

    score, clocks = instantiate(cfg.score), instantiate(cfg.latency)
    score.check(clocks.batches, clocks.end_to_end)
    if not timm.is_model(score.reference):
        raise DeploymentError(f"score.reference={score.reference} is not a timm model: leave it at resnet18d")
    return score, clocks


def load_data(record: dict[str, Any], cfg: DictConfig) -> tuple["WasteDataModule", Any, dict[str, Any]]:
    """The photos to judge on, the checkpoint's own where `data` is silent; which split of them; facts to report."""
    from hydra.utils import instantiate

    from datamodules import DataError

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


def export_later(**settings: Any) -> Callable[[str], dict[str, Any]]:
    """Return what exports a checkpoint when it is trained; raises now, before the training, if a package is missing."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.utils import instantiate

    from deployment.formats import register
    from deployment.shipping import check_packages, combinations
    from export import export

    begun = GlobalHydra.instance().is_initialized()  # as in any run that a command line started
    place = nullcontext() if begun else hydra.initialize_config_dir(str(Path(__file__).parent), version_base="1.3")
    with place:
        composed = hydra.compose("export")
        OmegaConf.set_struct(composed.formats, False)  # its keys are names that the user gives
        cfg = merged(composed, settings)
    check(cfg)
    register(instantiate(cfg.formats))
    check_packages(combinations(cfg.format, cfg.precision))
    return lambda ckpt: export(merged(cfg, {"ckpt": ckpt}))
