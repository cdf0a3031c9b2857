"""Turn a checkpoint into files that ship, prove that they compute the same, time them, and recommend one.

python export.py ckpt=runs/.../best.ckpt format=onnx,openvino,ncnn precision=fp32,int8
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from conf import merged
from conf.build import judges, load_data
from conf.check import check
from conf.folders import export_folder
from conf.launch import launch
from conf.typed import as_typed


def export(cfg: DictConfig) -> dict[str, Any]:
    """Export a checkpoint into a folder that no other export has; returns what export.json holds."""
    from lightning_modules.checkpoint import load_net

    check(cfg)
    net, record = load_net(cfg.ckpt)  # first: a wrong name makes no folder
    with export_folder(cfg.ckpt, cfg.out, cfg.overwrite) as out:
        return write_export(merged(cfg, {"out": str(out), "run_dir": str(out)}), net, record)


def write_export(cfg: DictConfig, net: Any, record: dict[str, Any]) -> dict[str, Any]:
    """Write, prove, time and rank the files of a checkpoint in `cfg.out`; returns what export.json holds."""
    from datamodules.images import load
    from datamodules.stream import some_photos
    from deployment.formats import register
    from deployment.parity import tolerances
    from deployment.profile import profile
    from deployment.runtimes import TorchPredictor, best_device, load_exported, predict_all
    from deployment.shipping import Exporter, combinations
    from lightning_modules.backbones import create_backbone
    from lightning_modules.checkpoint import versions
    from lightning_modules.metrics import evaluate
    from reports.artefacts import checkpoint_row, print_artefacts, recommend, timed, write_artefacts
    from reports.calibration import calibrate

    register(instantiate(cfg.formats))
    wanted, passing = combinations(cfg.format, cfg.precision), tolerances(cfg.tolerance, cfg.agreement)
    device = best_device(cfg.accelerator)  # of the checkpoint's answers alone: files are made, and answer, on the CPU
    score, clocks = judges(cfg)
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
        calibration_images=some_photos(data.loader("train"), cfg.calibration_photos), max_drop=cfg.max_drop,
        temperature=temperature, name=cfg.name,
    )  # fmt: skip
    rows = [exporter.write(name, precision) for name, precision in wanted]
    done = {row["file"]: row["path"] for row in rows if row["status"] == "completed"}
    models = {name: (load_exported(path, cfg.latency.settings.threads), data.size) for name, path in done.items()}
    yardstick = create_backbone(score.reference, len(classes), pretrained=False)
    latency = clocks.measure_all(
        {"checkpoint": (net, data.size), **models}, (score.reference, yardstick, score.reference_size),
        lambda size: partial(load, size=size, policy=data.resize), [data.source.file(i) for i in indices],
    )  # fmt: skip
    rows = timed([checkpoint_row(cfg.ckpt, scores), *rows], latency, score.judge)
    chosen, reason = recommend(rows[1:], cfg.max_drop)
    report = {
        **facts, "status": "completed", "ckpt": str(cfg.ckpt), "split": split, "photos": len(targets), "rows": rows,
        "recommended": chosen and chosen["file"], "reason": reason, "temperature": temperature, **costs,
        "latency": latency,
    }  # fmt: skip
    print_artefacts(rows, chosen, reason, calibration)
    print("".join(f"wrote {path}\n" for path in [*done.values(), *write_artefacts(out, report, rows)]), end="")
    return report


@hydra.main(version_base="1.3", config_path="conf", config_name="export")
def main(cfg: DictConfig) -> None:
    """Export one checkpoint; a file that failed its proof makes the exit status 1."""
    if any(row["status"] == "failed" for row in export(cfg)["rows"]):
        sys.exit(1)


if __name__ == "__main__":
    sys.argv[1:] = as_typed(sys.argv[1:], lists=("format", "precision"), texts=("ckpt", "out"))
    launch(main)
