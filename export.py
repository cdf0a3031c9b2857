"""Turn a checkpoint into files to deploy, prove that they compute the same, time them, and recommend one.

python export.py ckpt=runs/.../best.ckpt format=onnx,openvino,ncnn precision=fp32,int8
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

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


def export(cfg: DictConfig) -> dict[str, Any]:
    """Export a checkpoint into a folder that no other export has; returns what export.json holds."""
    from lightning_modules.checkpoint import load_net

    check(cfg)
    net, record = load_net(cfg.ckpt)  # first: a wrong name makes no folder
    with export_folder(cfg.ckpt, cfg.out, cfg.overwrite) as out:
        return write_export(merge(cfg, {"out": str(out), "run_dir": str(out)}), net, record)


def write_export(cfg: DictConfig, net: Any, record: dict[str, Any]) -> dict[str, Any]:
    """Write, prove, time and rank the files of a checkpoint in `cfg.out`; returns what export.json holds."""
    from datamodules.images.decode import load
    from datamodules.inference_loader import calibration_images
    from deployment.complexity import profile
    from deployment.exporter import Exporter, combinations
    from deployment.formats import register
    from deployment.parity import tolerances
    from deployment.predictors import TorchPredictor, best_device, load_exported, predict_all
    from lightning_modules.backbones.backbone import create_backbone
    from lightning_modules.metrics import evaluate
    from litesort.system import versions
    from reports.calibration import calibrate
    from reports.export_report import checkpoint_row, print_artifacts, recommend, timed, write_artifacts

    register(instantiate(cfg.formats))
    wanted, passing = combinations(cfg.format, cfg.precision), tolerances(cfg.tolerance, cfg.agreement)
    device = best_device(cfg.accelerator)  # of the checkpoint's answers alone: files are made, and answer, on the CPU
    score, benchmark = build_score_and_latency(cfg)
    data, split, facts = load_data(record, cfg)
    split = "test" if cfg.split == "auto" else split
    classes, eager, out = record["classes"], TorchPredictor(net, device), Path(cfg.out)
    (shares, targets, indices), (known, truth, _) = (predict_all(eager, data.loader(part)) for part in (split, "val"))
    expected, temperature, calibration = calibrate(shares, targets, known, truth, cfg.temperature)
    scores = {"split": split, **evaluate(expected, targets, classes)}
    costs = {**profile(net, data.size), "metrics": scores, "calibration": calibration, "versions": versions()}
    exporter = Exporter(
        net, {**record, "exported": costs}, out, expected, passing,
        predict_all=lambda predict: predict_all(predict, data.loader(split))[0],
        f1_score=lambda shares: evaluate(shares, targets, classes)["f1_macro"],
        f1_of=lambda predict: evaluate(*predict_all(predict, data.loader("val"))[:2], classes)["f1_macro"],
        calibration_images=calibration_images(data.loader("train"), cfg.calibration_images), max_drop=cfg.max_drop,
        temperature=temperature, name=cfg.name,
    )  # fmt: skip
    rows = [exporter.write(name, precision) for name, precision in wanted]
    done = {row["file"]: row["path"] for row in rows if row["status"] == "completed"}
    models = {name: (load_exported(path, cfg.latency.settings.threads), data.size) for name, path in done.items()}
    reference = create_backbone(score.reference, len(classes), pretrained=False)
    latency = benchmark.measure_all(
        {"checkpoint": (net, data.size), **models}, (score.reference, reference, score.reference_size),
        lambda size: partial(load, size=size, policy=data.resize), [data.source.file(i) for i in indices],
    )  # fmt: skip
    rows = timed([checkpoint_row(cfg.ckpt, scores), *rows], latency, score.compute)
    chosen, reason = recommend(rows[1:], cfg.max_drop)
    report = {
        **facts, "status": "completed", "ckpt": str(cfg.ckpt), "split": split, "photos": len(targets), "rows": rows,
        "recommended": chosen and chosen["file"], "reason": reason, "temperature": temperature, **costs,
        "latency": latency,
    }  # fmt: skip
    print_artifacts(rows, chosen, reason, calibration)
    print("".join(f"wrote {path}\n" for path in [*done.values(), *write_artifacts(out, report, rows)]), end="")
    return report


def export_later(**settings: Any) -> Callable[[str], dict[str, Any]]:
    """Return what exports a checkpoint when it is trained; raises now, before the training, if a package is missing."""

    from hydra.core.global_hydra import GlobalHydra
    from hydra.utils import instantiate

    from deployment.exporter import check_packages, combinations
    from deployment.formats import register

    begun = GlobalHydra.instance().is_initialized()  # as in any run that a command line started
    place = nullcontext() if begun else hydra.initialize_config_dir(str(CONF), version_base="1.3")
    with place:
        composed = hydra.compose("export")
        for part in (composed.formats, composed.data):
            OmegaConf.set_struct(part, False)  # their keys are the user's
        cfg = merge(composed, settings)
    check(cfg)
    register(instantiate(cfg.formats))
    check_packages(combinations(cfg.format, cfg.precision))
    return lambda ckpt: export(merge(cfg, {"ckpt": ckpt}))


@hydra.main(version_base="1.3", config_path="conf", config_name="export")
def main(cfg: DictConfig) -> None:
    """Export one checkpoint; a file that failed its proof makes the exit status 1."""
    if any(row["status"] == "failed" for row in export(cfg)["rows"]):
        sys.exit(1)


if __name__ == "__main__":
    sys.argv[1:] = quote_overrides(sys.argv[1:], lists=("format", "precision"), texts=("ckpt", "out"))
    launch(main)
