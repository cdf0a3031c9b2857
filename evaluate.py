"""Evaluate a checkpoint or an exported file: macro F1, calibration, latency, and a score of F1 and time.

python evaluate.py ckpt=runs/.../best.ckpt                on the run's own test images; or ckpt=model-fp32.onnx
python evaluate.py ckpt=... data=folder data.root=belt    on other images
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from litesort.cli.build import ScoreAndLatency, build_score_and_latency, load_data
from litesort.cli.launch import launch, phase
from litesort.cli.validate import check

if TYPE_CHECKING:
    from datamodules.datamodule import ImageDataModule
    from deployment.predictors import Artifact, Predictions

log = logging.getLogger(__name__)

NO_VALIDATION = "these images have no validation split: evaluate a file of export.py, which stores a threshold"


def evaluate_artifact(
    artifact: "Artifact",
    data: "ImageDataModule",
    cfg: DictConfig,
    scoring: ScoreAndLatency,
    run_info: Mapping[str, Any],
    split: str = "test",
    loggers: Sequence[Any] = (),
) -> dict[str, Any]:
    """Evaluate an artifact on one split: print the results and write them into `cfg.run_dir`.

    Args:
        artifact: A checkpoint or an exported file, opened by `open_artifact`.
        data: A data module that is set up, with the classes of the artifact.
        cfg: The config of an evaluation or a training.
        scoring: Score and latency benchmark.
        run_info: Values of the run, which metrics.json stores.
        split: Name of the split.
        loggers: Lightning loggers that get figures and predictions.

    Returns:
        The content of metrics.json.
    """
    from deployment.complexity import cost
    from deployment.latency.benchmark import MODEL
    from deployment.predictors import predict_split
    from deployment.results import Results
    from reports.summary import print_summary

    predictions = predict_split(artifact.predict, data, split)
    quality = measure_quality(artifact, data, predictions, split, cfg)
    run_info = {**quality.validation, **run_info}  # values of a training take precedence
    latency = scoring.measure({MODEL: (artifact.net or artifact.predict, data.size)}, data, predictions.files)
    results = Results(
        artifact=artifact,
        run_info=run_info,
        split=split,
        images=len(predictions.targets),
        size=data.size,
        metrics=quality.metrics,
        rejection=quality.rejection,
        cost=cost(artifact, data.size),
        latency=latency,
        score=scoring.score.compute(quality.metrics["f1_macro"], latency.records, val_f1=run_info.get("val/f1_macro")),
    ).asdict()
    with phase("writing figures and heat maps"):
        written = write_files(results, predictions, artifact, data, cfg)
    log_predictions(loggers, predictions, data, Path(cfg.run_dir))
    print_summary(results, [artifact.path, *written])
    return results


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality of an artifact.

    Attributes:
        metrics: Metrics of the evaluated images: "f1_macro" and its interval, "f1/<class>", "coverage", ...
        rejection: "threshold", "threshold_target" and "threshold_note", chosen on validation images.
        validation: "val/f1_macro" if the data has a validation split, and "test_is_val" if it has no other test images.
    """

    metrics: dict[str, float]
    rejection: dict[str, Any]
    validation: dict[str, Any]


def measure_quality(
    artifact: "Artifact", data: "ImageDataModule", predictions: "Predictions", split: str, cfg: DictConfig
) -> Quality:
    """Measure the predictions of a split. The rejection threshold is chosen on the validation images of the run.

    Images from outside the run have no validation split. Their threshold is the one that an exported file stores.
    """
    import numpy as np

    from datamodules.splits.stored_split import SPLIT_BITS
    from deployment.predictors import predict_split
    from lightning_modules.metrics import evaluate
    from reports.evaluation import absent_classes
    from reports.intervals import f1_interval
    from reports.rejection import Threshold, choose_threshold, evaluate_threshold, stored_threshold

    probabilities, targets, classes = predictions.probabilities, predictions.targets, predictions.classes
    if line := absent_classes(targets, probabilities.argmax(1), classes):
        log.warning(line)
    low, high = f1_interval(targets, probabilities.argmax(1), len(classes))
    metrics = {**evaluate(probabilities, targets, classes), "f1_macro_low": low, "f1_macro_high": high}
    if split not in SPLIT_BITS:
        threshold = stored_threshold(artifact.card) or Threshold(None, cfg.target_accuracy, NO_VALIDATION)
        return Quality(metrics | evaluate_threshold(probabilities, targets, threshold.value), threshold.asdict(), {})
    val = predictions if split == "val" else predict_split(artifact.predict, data, "val")
    threshold = choose_threshold(val.probabilities, val.targets, cfg.target_accuracy, cfg.target_confidence)
    validation = {"val/f1_macro": evaluate(val.probabilities, val.targets, classes)["f1_macro"]}
    if np.isin(predictions.indices, val.indices).any():  # the threshold was chosen on these images
        return Quality(metrics, threshold.asdict(), validation | ({"test_is_val": True} if split == "test" else {}))
    return Quality(
        metrics | evaluate_threshold(probabilities, targets, threshold.value), threshold.asdict(), validation
    )


def write_files(
    results: dict[str, Any], predictions: "Predictions", artifact: "Artifact", data: "ImageDataModule", cfg: DictConfig
) -> list[Path]:
    """Write metrics, predictions, figures and wrong images into `cfg.run_dir`; returns the files."""
    from datamodules.images.resize import resize
    from lightning_modules.backbones.grad_cam import heat_maps
    from reports.evaluation import write_evaluation
    from reports.mistakes import write_mistakes

    def read_square(row: int, size: int) -> Any:
        return resize(data.source.read(predictions.indices[row], size), size, data.resize)

    shared: dict[str, Any] = {
        "probabilities": predictions.probabilities,
        "targets": predictions.targets,
        "classes": predictions.classes,
        "files": predictions.names,
    }
    mistakes = write_mistakes(
        Path(cfg.run_dir),
        **shared,
        image=read_square,
        size=data.size,
        heat_maps=partial(heat_maps, artifact.net) if artifact.net else None,
        count=cfg.mistakes,
        explained=cfg.heat_maps,
    )
    # metrics.json is written last: if it exists, all other files are complete.
    return [*write_evaluation(Path(cfg.run_dir), results, **shared), *([mistakes] if mistakes else [])]


def log_predictions(loggers: Sequence[Any], predictions: "Predictions", data: "ImageDataModule", folder: Path) -> None:
    """Send tables of the predictions, and the figures in `folder`, to the loggers."""
    from loggers.images import log_figures
    from loggers.wandb_media import log_prediction_tables

    log_prediction_tables(
        loggers,
        predictions.probabilities,
        predictions.targets,
        predictions.classes,
        predictions.names,
        lambda row: data.source.read(predictions.indices[row], 256),
    )
    log_figures(loggers, folder)


def open_artifact(ckpt: str | None, cfg: DictConfig) -> "Artifact":
    """Open a checkpoint or an exported file, with the threads of the latency benchmark and the options of `runtime`."""
    from deployment.formats import register
    from deployment.predictors import best_device, load_artifact
    from lightning_modules.checkpoint import load_net

    register(instantiate(cfg.get("formats")))
    device = best_device(cfg.accelerator)
    return load_artifact(ckpt, load_net, device, cfg.latency.settings.threads, cfg.get("runtime"))


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> float:
    """Evaluate one checkpoint or exported file; returns its score."""
    with phase("loading PyTorch and the checkpoint"):
        check(cfg)
        artifact, scoring = open_artifact(cfg.ckpt, cfg), build_score_and_latency(cfg)
    data, split, run_info = load_data(artifact.card, cfg)
    score: float = evaluate_artifact(artifact, data, cfg, scoring, run_info, split)["score"]
    return score


if __name__ == "__main__":
    launch(main)
