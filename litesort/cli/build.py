"""Build from a config: the config of a resumed run, score and latency, the data of an artifact."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from litesort.cli.compose import data_name, init_from, merge_overrides, plain
from litesort.cli.resume import resume_checkpoint
from litesort.cli.split_origin import evaluated_split
from litesort.cli.stored_config import READ_BY_SOURCE, images_name, stored_data, stored_data_builder, stored_name
from litesort.cli.validate import check
from litesort.errors import DataError, DeploymentError
from litesort.preprocessing import Preprocessing
from litesort.settings import group_settings

if TYPE_CHECKING:
    from torch import nn

    from datamodules.datamodule import ImageDataModule
    from deployment.latency.benchmark import LatencyBenchmark, LatencyReport
    from deployment.score import Score
    from lightning_modules.classifier import ImageClassifier
    from lightning_modules.precision import Precision

log = logging.getLogger(__name__)


def resumed_config(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """Merge the stored config of `ckpt` or `ckpt_init` with the values of the command line, which win.

    Raises:
        ModelError: The stored config names a class that neither `conf/` nor the command line names.
    """
    from lightning_modules.checkpoint import read_checkpoint

    if cfg.ckpt or cfg.ckpt_init:
        key = "ckpt" if cfg.ckpt else "ckpt_init"
        stored = read_checkpoint(cfg[key], key)["litesort"]["config"]
        cfg = (merge_overrides if cfg.ckpt else init_from)(cfg, stored, overrides)
    cfg.ckpt = cfg.ckpt or resume_checkpoint(cfg)
    if cfg.teacher and "teacher" not in cfg.objective and is_sweep():
        log.warning("teacher=%s is ignored in this job: its objective learns from labels alone", cfg.teacher)
        cfg.teacher = None
    return check(cfg)


def is_sweep() -> bool:
    """Return True in a job of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode in (RunMode.MULTIRUN, RunMode.MULTIRUN.name)


@dataclass(frozen=True, slots=True)
class ScoreAndLatency:
    """The score, and the benchmark that measures the times of the score.

    Attributes:
        score: Computes the score from macro F1 and time.
        benchmark: Measures the times of candidates and of the reference network of the score.
    """

    score: "Score"
    benchmark: "LatencyBenchmark"

    def measure(
        self, models: Mapping[str, tuple[Any, int]], data: "ImageDataModule", files: Sequence[Path]
    ) -> "LatencyReport":
        """Time models beside the reference network of the score.

        Args:
            models: Name -> network or predictor, and its image size in pixels.
            data: Data module, for its resize policy.
            files: Images that are read for the end-to-end time.
        """
        from datamodules.cache import default_cache_dir
        from datamodules.images.decode import load
        from deployment.latency.reference import Reference

        build = partial(_reference_network, self.score.reference)
        folder = default_cache_dir() / "references"
        return self.benchmark.measure(
            models,
            reference=Reference(self.score.reference, self.score.reference_size, build, folder),
            reader=lambda size: partial(load, size=size, policy=data.resize),
            files=files,
        )


@lru_cache(maxsize=1)
def _reference_network(name: str) -> "nn.Module":
    """Build the reference network, once per process, with the same random weights on every call."""
    import torch

    from lightning_modules.backbones.backbone import create_backbone

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return create_backbone(name, 6, pretrained=False).eval()


def build_score_and_latency(cfg: DictConfig) -> ScoreAndLatency:
    """Build the score and the latency benchmark. A training builds them first, so that invalid settings fail early.

    Raises:
        DeploymentError: A setting is out of range, the score needs a time that is not measured, or its reference is
            not a timm model.
    """
    import timm
    from hydra.utils import instantiate

    score, benchmark = instantiate(cfg.score), instantiate(cfg.latency)
    score.check(benchmark.batches, benchmark.end_to_end)
    if not timm.is_model(score.reference):
        raise DeploymentError(f"score.reference={score.reference} is not a timm model: leave it at resnet18d")
    return ScoreAndLatency(score, benchmark)


def training_precision(cfg: DictConfig, module: "ImageClassifier", data: "ImageDataModule") -> "Precision":
    """Choose the precision of a training. On a CPU, the choices are timed, and the result is cached."""
    from datamodules.cache import cache_folder
    from lightning_modules.precision import choose_precision

    trainer, batches = cfg.trainer, len(data.train_dataloader())
    limit = trainer.get("limit_train_batches")
    if limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return choose_precision(
        trainer.precision,
        trainer.accelerator,
        module.net,
        module.timing_step,
        (data.batch_size, 3, data.size, data.size),
        steps=batches * (trainer.max_epochs or 1000),
        processes=trainer.devices not in (1, "1", "auto"),
        cache_dir=cache_folder(cfg.data.cache_dir),
    )


def export_settings(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings that the export after a training gets: `data`, if its source is a class of the user.

    Without them, an export reads the data that the checkpoint names, which must be a source of litesort.
    """
    if "format" not in cfg.export or str(cfg.data.source._target_).startswith("datamodules."):
        return {}
    left_out = ("sampler", "augment", "fold", "folds")  # settings of a training
    return {"data": {key: value for key, value in plain(cfg.data).items() if key not in left_out}}


def data_builder(data: DictConfig) -> Callable[..., "ImageDataModule"]:
    """Return a function that builds the data module of a config; settings that are passed to it win.

    Settings that are fields of a dataclass parameter (`split`, `cache`, ...) are grouped. Keys that only `source` reads
    are left out.

    Args:
        data: The config group `data`.
    """
    from hydra.utils import instantiate

    built = instantiate(data, _partial_=True)

    def build(**settings: Any) -> "ImageDataModule":
        given = {key: value for key, value in built.keywords.items() if key not in READ_BY_SOURCE}
        return built.func(**group_settings(built.func, given | settings))

    return build


def load_data(card: dict[str, Any], cfg: DictConfig) -> tuple["ImageDataModule", str, dict[str, Any]]:
    """Build the data that an artifact is evaluated on: the images of `data`, or those that it was trained with.

    Args:
        card: Metadata of the artifact.
        cfg: The config of an evaluation or an export.

    Returns:
        The data module, set up; the name of the split to evaluate on; and the run info: `name` and `data`.

    Raises:
        UserError: The data cannot be built, or the command line defines another split.
    """
    chosen = {key: value for key, value in cfg.data.items_ex(resolve=False) if value is not None}
    other = bool(chosen.keys() & {"_target_", "root", "file"})
    if "_target_" in chosen:
        build, images = data_builder(cfg.data), data_name(cfg)
    else:
        settings = stored_data(card["config"], {key: plain(cfg.data)[key] for key in chosen})
        build, images = stored_data_builder(settings), images_name(settings)
    if {"fold", "folds"} & chosen.keys():
        raise DataError("data.fold and data.folds are settings of a training: leave them out, the split is the run's")
    data = build(  # keyword arguments, so that values of a file never become part of a config
        classes=card["classes"],
        quarantine_dir=cfg.run_dir,
        stored_split=card.get("split"),
        **asdict(Preprocessing.from_card(card)),
    )
    data.prepare_data()
    data.setup("test")
    run_info = {"name": stored_name(card["config"]), "data": images}
    return data, evaluated_split(data, cfg.split, other), run_info
