"""Export a checkpoint to files that can be deployed: verify each file, time it, and recommend one.

python export.py ckpt=runs/.../best.ckpt format=onnx,openvino,ncnn precision=fp32,int8
"""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from litesort.cli.build import ScoreAndLatency, build_score_and_latency, is_sweep, load_data
from litesort.cli.compose import merge
from litesort.cli.folders import export_folder
from litesort.cli.launch import launch
from litesort.cli.paths import CONF
from litesort.cli.quoting import quote_overrides
from litesort.cli.validate import check
from litesort.errors import DeploymentError
from litesort.io import write_json

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from datamodules.datamodule import ImageDataModule
    from deployment.exporter import Exporter
    from deployment.formats import Predictor
    from deployment.predictors import Predictions

log = logging.getLogger(__name__)


def export(cfg: DictConfig) -> dict[str, Any]:
    """Export a checkpoint into a folder of its own; returns the content of export.json."""
    from deployment.formats import register
    from lightning_modules.checkpoint import load_net

    check(cfg)
    register(instantiate(cfg.formats))
    net, card = load_net(cfg.ckpt)  # first, so that a wrong path creates no folder
    with export_folder(cfg.ckpt, cfg.out, cfg.overwrite) as out:
        return export_network(net, card, merge(cfg, {"out": str(out), "run_dir": str(out)}))


def export_network(net: "nn.Module", card: dict[str, Any], cfg: DictConfig) -> dict[str, Any]:
    """Write, verify, time and rank the files of a network in `cfg.out`; returns the content of export.json.

    Every choice is made on validation images. The images of `cfg.split` are read at the end, to report the results.
    """
    from deployment.complexity import size_in_bytes
    from deployment.exporter import combinations
    from reports.export_report import add_times, checkpoint_row, print_artifacts, recommend, write_artifacts

    wanted, scoring = combinations(cfg.format, cfg.precision), build_score_and_latency(cfg)
    data, split, run_info = load_data(card, cfg)
    split = "test" if cfg.split == "auto" else split
    checkpoint = predict_checkpoint(net, data, cfg)
    exporter, exported_info = build_exporter(net, card, data, checkpoint, cfg)
    written = [exporter.write(name, precision) for name, precision in wanted]
    latency = scoring.measure(models_to_time(net, written, data, cfg), data, checkpoint.val.files)
    val_f1 = checkpoint.metrics["f1_macro"]
    rows = add_times([checkpoint_row(cfg.ckpt, val_f1, size_in_bytes(cfg.ckpt, net)), *written], latency.row)
    chosen, reason = recommend(rows[1:], cfg.max_drop)
    evaluated = evaluate_rows(rows, checkpoint, data, split, cfg)
    rows = [with_scores(row, split, latency.records, scoring) for row in evaluated.rows]
    report = {
        **run_info,
        "status": "completed",
        "model": card["model"]["name"],
        "origin": card["origin"],
        "size": data.size,
        "ckpt": str(cfg.ckpt),
        "split": split,
        "images": evaluated.images,
        **evaluated.overlap,
        "rows": rows,
        "recommended": chosen and chosen["file"],
        "reason": reason,
        "temperature": checkpoint.temperature,
        **exported_info,
        "metrics": evaluated.metrics,
        "calibration": evaluated.calibration,
        "latency": latency.records,
    }
    print_artifacts(rows, report["recommended"], reason, evaluated.calibration, report)
    files = [Path(row["path"]) for row in written if row["status"] == "completed"]
    print("".join(f"wrote {path}\n" for path in [*files, *write_artifacts(Path(cfg.out), report, rows)]), end="")
    return report


@dataclass(frozen=True, slots=True)
class CheckpointResults:
    """Validation results of the checkpoint, which exported files are compared with.

    Attributes:
        predict: Its predictor.
        val: Its predictions for the validation images, at `temperature`.
        temperature: Number above 0 that its logits are divided by.
        metrics: Metrics of `val`, and "split".
    """

    predict: "Predictor"
    val: "Predictions"
    temperature: float
    metrics: dict[str, Any]


def predict_checkpoint(net: "nn.Module", data: "ImageDataModule", cfg: DictConfig) -> CheckpointResults:
    """Predict the validation images with the checkpoint, and fit the temperature to them."""
    from deployment.predictors import TorchPredictor, best_device, predict_split
    from lightning_modules.metrics import evaluate
    from reports.calibration import apply_temperature, fit_temperature

    eager = TorchPredictor(net, best_device(cfg.accelerator))  # exported files run on the CPU
    raw = predict_split(eager, data, "val")
    fitted = cfg.temperature == "auto"
    temperature = fit_temperature(raw.probabilities, raw.targets) if fitted else float(cfg.temperature)
    val = replace(raw, probabilities=apply_temperature(raw.probabilities, temperature))
    metrics = {"split": "val", **evaluate(val.probabilities, val.targets, val.classes)}
    return CheckpointResults(eager, val, temperature, metrics)


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
    from reports.rejection import choose_threshold

    targets, classes = checkpoint.val.targets, checkpoint.val.classes

    def threshold(probabilities: "np.ndarray") -> dict[str, Any]:
        return choose_threshold(probabilities, targets, cfg.target_accuracy, cfg.target_confidence).asdict()

    exported_info = {**profile(net, data.size), "metrics": checkpoint.metrics, "versions": versions()}
    exporter = Exporter(
        net=net,
        card={**card, "exported": exported_info},
        folder=Path(cfg.out),
        expected=checkpoint.val.probabilities,
        tolerance=tolerances(cfg.tolerance, cfg.agreement),
        predict_val=lambda predict: predict_all(predict, data.loader("val"))[0],
        f1_score=lambda probabilities: evaluate(probabilities, targets, classes)["f1_macro"],
        choose_threshold=threshold,
        calibration_images=calibration_images(data.loader("train"), cfg.calibration_images),
        max_drop=cfg.max_drop,
        temperature=checkpoint.temperature,
        name=cfg.name,
    )
    return exporter, exported_info


@dataclass(frozen=True, slots=True)
class FinalResults:
    """Results on the images of the evaluated split, which is the test split by default.

    Attributes:
        rows: Rows of the checkpoint and the files, with these results.
        images: Number of images.
        metrics: Metrics of the checkpoint.
        calibration: Calibration error of the checkpoint before and after temperature scaling.
        overlap: "test_is_val" if the test images are validation images; else empty.
    """

    rows: list[dict[str, Any]]
    images: int
    metrics: dict[str, Any]
    calibration: dict[str, float]
    overlap: dict[str, Any]


def evaluate_rows(
    rows: Sequence[Mapping[str, Any]],
    checkpoint: CheckpointResults,
    data: "ImageDataModule",
    split: str,
    cfg: DictConfig,
) -> FinalResults:
    """Predict the images of a split with the checkpoint and every completed file, and compare them."""
    import numpy as np

    from deployment.predictors import load_exported, predict_all, predict_split
    from lightning_modules.metrics import evaluate
    from reports.calibration import apply_temperature, calibration_change
    from reports.export_report import evaluated_row, stage_of

    raw = predict_split(checkpoint.predict, data, split)
    expected = apply_temperature(raw.probabilities, checkpoint.temperature)
    has_val_images = bool(np.isin(raw.indices, checkpoint.val.indices).any())
    if has_val_images and split != "val":
        log.warning("split=%s contains validation images, used for the choices: its results are too optimistic", split)

    def with_results(row: Mapping[str, Any]) -> dict[str, Any]:
        if row["status"] != "completed":
            return dict(row)
        is_file = row["file"] != "checkpoint"
        predictor = load_exported(row["path"], cfg.latency.settings.threads) if is_file else None
        probabilities = expected if predictor is None else predict_all(predictor, data.loader(split))[0]
        return evaluated_row(
            row, stage_of(split), raw.targets, probabilities, expected, raw.classes, chosen_here=has_val_images
        )

    return FinalResults(
        rows=[with_results(row) for row in rows],
        images=len(raw.targets),
        metrics={"split": split, **evaluate(expected, raw.targets, raw.classes)},
        calibration=calibration_change(raw.probabilities, raw.targets, checkpoint.temperature),
        overlap={"test_is_val": True} if has_val_images and split == "test" else {},
    )


def with_scores(
    row: Mapping[str, Any], split: str, latency: Sequence[Mapping[str, Any]], scoring: ScoreAndLatency
) -> dict[str, Any]:
    """Add "score" (of the evaluated split) and "val/score" to a completed row; other rows are returned unchanged."""
    from reports.export_report import stage_of

    if row["status"] != "completed":
        return dict(row)
    f1 = row[f"{stage_of(split)}/f1_macro"]
    return {**row, **scoring.score.compute(f1, latency, row["file"], row["val/f1_macro"])}


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
        settings: Settings that replace those of `conf/export.yaml`.

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


def check_files(report: Mapping[str, Any]) -> None:
    """Raise DeploymentError if a file of an export failed."""
    files = [row for row in report["rows"] if row["file"] != "checkpoint"]
    failed = [str(row["file"]) for row in files if row["status"] == "failed"]
    if failed:
        raise DeploymentError(f"{len(failed)} of {len(files)} files failed: {', '.join(failed)}: see the reasons above")


@hydra.main(version_base="1.3", config_path="conf", config_name="export")
def main(cfg: DictConfig) -> None:
    """Export one checkpoint. If a file fails, the others are written, and the exit status is 2."""
    report = export(cfg)
    if is_sweep():  # the leaderboard of the sweep reads the report there
        write_json(Path(HydraConfig.get().runtime.output_dir) / "export.json", report)
    check_files(report)


if __name__ == "__main__":
    sys.argv[1:] = quote_overrides(sys.argv[1:], lists=("format", "precision"), texts=("ckpt", "out"))
    launch(main)
