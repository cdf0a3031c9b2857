"""Export a checkpoint to files that can be deployed: verify each file, time it, and recommend one.

python export.py ckpt=runs/.../best.ckpt format=onnx,openvino,ncnn precision=fp32,int8
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from litesort.cli.build import build_score_and_latency, load_data
from litesort.cli.compose import merge
from litesort.cli.folders import export_folder
from litesort.cli.launch import launch
from litesort.cli.paths import CONF
from litesort.cli.quoting import quote_overrides
from litesort.cli.validate import check

if TYPE_CHECKING:
    from torch import nn

    from datamodules.datamodule import ImageDataModule
    from deployment.exporter import Exporter
    from deployment.formats import Predictor
    from deployment.predictors import Predictions


def export(cfg: DictConfig) -> dict[str, Any]:
    """Export a checkpoint into a folder of its own; returns the content of export.json."""
    from deployment.formats import register
    from lightning_modules.checkpoint import load_net

    check(cfg)
    register(instantiate(cfg.formats))
    net, card = load_net(cfg.ckpt)  # before the folder is made, so that a wrong path leaves none
    with export_folder(cfg.ckpt, cfg.out, cfg.overwrite) as out:
        return export_network(net, card, merge(cfg, {"out": str(out), "run_dir": str(out)}))


def export_network(net: "nn.Module", card: dict[str, Any], cfg: DictConfig) -> dict[str, Any]:
    """Write, verify, time and rank the files of a network in `cfg.out`; returns the content of export.json."""
    from deployment.exporter import combinations
    from reports.export_report import checkpoint_row, print_artifacts, recommend, timed, write_artifacts

    wanted, scoring = combinations(cfg.format, cfg.precision), build_score_and_latency(cfg)
    data, split, run_info = load_data(card, cfg)
    split = "test" if cfg.split == "auto" else split
    checkpoint = predict_checkpoint(net, data, split, cfg)
    exporter, facts = build_exporter(net, card, data, checkpoint, cfg)
    written = [exporter.write(name, precision) for name, precision in wanted]
    latency = scoring.measure(models_to_time(net, written, data, cfg), data, checkpoint.predictions.files)
    rows = timed(
        [checkpoint_row(cfg.ckpt, checkpoint.metrics), *written],
        latency.row,
        lambda row: scoring.score.compute(row["f1_macro"], latency.records, row["file"], row.get("val/f1_macro")),
    )
    chosen, reason = recommend(rows[1:], cfg.max_drop)
    report = {
        **run_info,
        "status": "completed",
        "ckpt": str(cfg.ckpt),
        "split": split,
        "images": len(checkpoint.predictions.targets),
        "rows": rows,
        "recommended": chosen and chosen["file"],
        "reason": reason,
        "temperature": checkpoint.temperature,
        **facts,
        "latency": latency.records,
    }
    print_artifacts(rows, chosen, reason, checkpoint.calibration)
    files = [Path(row["path"]) for row in written if row["status"] == "completed"]
    print("".join(f"wrote {path}\n" for path in [*files, *write_artifacts(Path(cfg.out), report, rows)]), end="")
    return report


@dataclass(frozen=True, slots=True)
class CheckpointResults:
    """Results of the checkpoint, which exported files are compared with.

    Attributes:
        predictions: Its predictions for the evaluated split, calibrated.
        temperature: Its logits are divided by it.
        calibration: Calibration error before and after.
        metrics: Metrics of the predictions, and "split".
    """

    predictions: "Predictions"
    temperature: float
    calibration: dict[str, float]
    metrics: dict[str, Any]


def predict_checkpoint(net: "nn.Module", data: "ImageDataModule", split: str, cfg: DictConfig) -> CheckpointResults:
    """Predict a split with the checkpoint, at a temperature that is fitted to the validation images."""
    from deployment.predictors import TorchPredictor, best_device, predict_all, predict_split
    from lightning_modules.metrics import evaluate
    from reports.calibration import calibrate

    eager = TorchPredictor(net, best_device(cfg.accelerator))  # exported files run on the CPU
    raw = predict_split(eager, data, split)
    val_probabilities, val_targets, _ = predict_all(eager, data.loader("val"))
    probabilities, temperature, calibration = calibrate(
        raw.probabilities, raw.targets, val_probabilities, val_targets, cfg.temperature
    )
    metrics = {"split": split, **evaluate(probabilities, raw.targets, raw.classes)}
    return CheckpointResults(replace(raw, probabilities=probabilities), temperature, calibration, metrics)


def build_exporter(
    net: "nn.Module", card: dict[str, Any], data: "ImageDataModule", checkpoint: CheckpointResults, cfg: DictConfig
) -> tuple["Exporter", dict[str, Any]]:
    """Build the exporter; returns it with the values that every file stores under "exported"."""
    from datamodules.inference_loader import calibration_images
    from deployment.complexity import profile
    from deployment.exporter import Exporter
    from deployment.parity import tolerances
    from deployment.predictors import predict_all
    from lightning_modules.checkpoint import versions
    from lightning_modules.metrics import evaluate

    targets, classes = checkpoint.predictions.targets, checkpoint.predictions.classes

    def val_f1_of(predict: "Predictor") -> float:
        probabilities, val_targets, _ = predict_all(predict, data.loader("val"))
        return evaluate(probabilities, val_targets, classes)["f1_macro"]

    facts = {
        **profile(net, data.size),
        "metrics": checkpoint.metrics,
        "calibration": checkpoint.calibration,
        "versions": versions(),
    }
    exporter = Exporter(
        net=net,
        card={**card, "exported": facts},
        folder=Path(cfg.out),
        expected=checkpoint.predictions.probabilities,
        tolerance=tolerances(cfg.tolerance, cfg.agreement),
        predict_all=lambda predict: predict_all(predict, data.loader(checkpoint.metrics["split"]))[0],
        f1_score=lambda probabilities: evaluate(probabilities, targets, classes)["f1_macro"],
        f1_of=val_f1_of,
        calibration_images=calibration_images(data.loader("train"), cfg.calibration_images),
        max_drop=cfg.max_drop,
        temperature=checkpoint.temperature,
        name=cfg.name,
    )
    return exporter, facts


def models_to_time(
    net: "nn.Module", written: Sequence[Mapping[str, Any]], data: "ImageDataModule", cfg: DictConfig
) -> dict[str, tuple[Any, int]]:
    """Return name -> model and image size, of the checkpoint and of every completed file."""
    from deployment.predictors import load_exported

    threads = cfg.latency.settings.threads
    completed = [row for row in written if row["status"] == "completed"]
    files = {row["file"]: (load_exported(row["path"], threads), data.size) for row in completed}
    return {"checkpoint": (net, data.size), **files}


def export_later(**settings: Any) -> Callable[[str], dict[str, Any]]:
    """Return a function that exports a checkpoint once it is trained.

    Settings and packages are checked now, before the training.

    Args:
        settings: Settings of `conf/export.yaml` that differ.

    Raises:
        UserError: A setting is invalid, or a package is missing.
    """
    from hydra.core.global_hydra import GlobalHydra

    from deployment.exporter import check_packages, combinations
    from deployment.formats import register

    initialized = GlobalHydra.instance().is_initialized()  # true in a run that a command line started
    with nullcontext() if initialized else hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        composed = hydra.compose("export")
    for part in (composed.formats, composed.data):
        OmegaConf.set_struct(part, False)  # their keys are names that the user chooses
    cfg = check(merge(composed, settings))
    register(instantiate(cfg.formats))
    check_packages(combinations(cfg.format, cfg.precision))
    return lambda ckpt: export(merge(cfg, {"ckpt": ckpt}))


@hydra.main(version_base="1.3", config_path="conf", config_name="export")
def main(cfg: DictConfig) -> None:
    """Export one checkpoint; the exit status is 1 if a file failed."""
    if any(row["status"] == "failed" for row in export(cfg)["rows"]):
        sys.exit(1)


if __name__ == "__main__":
    sys.argv[1:] = quote_overrides(sys.argv[1:], lists=("format", "precision"), texts=("ckpt", "out"))
    launch(main)
