"""Judge a checkpoint or an exported file: macro F1, calibration, latency, and the one score of F1 and time.

python evaluate.py ckpt=runs/.../best.ckpt                on the run's own test photos; or ckpt=model-fp32.onnx
python evaluate.py ckpt=... data=folder data.root=belt    on other photos
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from litesort.cli.build import build_score_and_latency, load_data
from litesort.cli.launch import launch
from litesort.cli.validate import check

if TYPE_CHECKING:
    from datamodules.datamodule import ImageDataModule
    from deployment.predictors import Artifact


def evaluate_artifact(
    ckpt: str, data: "ImageDataModule", cfg: DictConfig, facts: dict[str, Any], split: Any = "test",
    loggers: Any = (),
) -> dict[str, Any]:  # fmt: skip
    """Judge a file that can answer: writes into `cfg.run_dir`, prints, returns what metrics.json holds, `facts` too."""
    from datamodules.images.decode import load
    from datamodules.images.resize import resize
    from deployment.complexity import cost, size_in_bytes
    from deployment.predictors import predict_all
    from lightning_modules.backbones.backbone import create_backbone
    from lightning_modules.backbones.grad_cam import heat_maps
    from lightning_modules.metrics import evaluate
    from litesort.system import versions
    from loggers.images import log_pictures
    from loggers.wandb_media import log_answers
    from reports.evaluation import coverage, write_evaluation
    from reports.mistakes import write_mistakes
    from reports.summary import print_summary

    predict, record, net = open_artifact(ckpt, cfg)
    classes = record["classes"]
    probabilities, targets, indices = predict_all(predict, data.loader(split))
    names, files = [data.samples[i].path for i in indices], [data.source.file(i) for i in indices]
    scores = evaluate(probabilities, targets, classes)
    stage = {"unseen": "test"}.get(split, split)  # images that were trained on give no test/ numbers
    score, benchmark = build_score_and_latency(cfg)
    reference = create_backbone(score.reference, len(classes), pretrained=False)
    latency = benchmark.measure(
        net or predict, data.size, (score.reference, reference, score.reference_size),
        lambda size: partial(load, size=size, policy=data.resize), files,
    )  # fmt: skip
    timed = latency[0]["entries"]["model"]
    results = {
        "status": "completed", "error": None, **facts, "ckpt": str(ckpt), "split": split, "photos": len(targets),
        "model": record["model"]["name"], "origin": record["origin"], "size": data.size, "classes": classes,
        **{f"{stage}/{key}": value for key, value in scores.items()},
        **coverage(targets, probabilities, cfg.target_accuracy),
        **cost(net, record, data.size), "bytes": size_in_bytes(ckpt, net), **score.compute(scores["f1_macro"], latency),
        "latency_ms": timed["median_ms"], "ratio": timed["ratio"], "latency": latency, "versions": versions(),
    }  # fmt: skip
    answers = (probabilities, targets, classes, names)
    mistakes = write_mistakes(
        Path(cfg.run_dir), *answers, lambda row, size: resize(data.source.read(indices[row], size), size, data.resize),
        data.size, partial(heat_maps, net) if net else None, cfg.get("mistakes", 12),
    )  # fmt: skip
    written = write_evaluation(Path(cfg.run_dir), results, names, targets, probabilities, classes)
    log_answers(loggers, *answers, lambda row: data.source.read(indices[row], 256))
    log_pictures(loggers, Path(cfg.run_dir))
    print_summary(results, [Path(ckpt), *written, *([mistakes] if mistakes else [])])
    return results


def open_artifact(ckpt: str, cfg: DictConfig) -> "Artifact":
    """Load what is to be evaluated, with the threads that it is timed with and the options of its runtime."""
    from deployment.formats import register
    from deployment.predictors import best_device, load_artifact
    from lightning_modules.checkpoint import load_net

    register(instantiate(cfg.get("formats")))
    device = best_device(cfg.accelerator)
    return load_artifact(ckpt, load_net, device, cfg.latency.settings.threads, cfg.get("runtime"))


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> float:
    """Judge one checkpoint or exported file; returns its score."""
    check(cfg)
    data, split, facts = load_data(open_artifact(cfg.ckpt, cfg).record, cfg)
    return evaluate_artifact(cfg.ckpt, data, cfg, facts, split)["score"]


if __name__ == "__main__":
    launch(main)
