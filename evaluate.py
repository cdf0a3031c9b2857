"""Judge a checkpoint: macro F1, calibration, latency, and the one score of F1 and time.

python evaluate.py ckpt=runs/.../best.ckpt                              on the run's own test photos
python evaluate.py ckpt=runs/.../best.ckpt data=folder data.root=belt   on other photos
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

import conf
from conf.check import check
from conf.launch import launch

if TYPE_CHECKING:
    from datamodules.waste import WasteDataModule
    from deployment.clocks import Clocks
    from deployment.score import Score


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


def judge(
    ckpt: str,
    data: "WasteDataModule",
    cfg: DictConfig,
    facts: dict[str, Any],
    split: Any = "test",
    loggers: Iterable[Any] = (),
) -> dict[str, Any]:
    """Judge a checkpoint on a split: writes into `cfg.run_dir`, prints, and returns what metrics.json holds.

    `facts` are further rows of it; `loggers` are those of a training run.
    """
    from callbacks.wandb_media import log_answers
    from datamodules.images import load
    from deployment.profile import profile
    from deployment.runtimes import TorchPredictor, best_device, predict_all
    from lightning_modules.backbones import create_backbone
    from lightning_modules.checkpoint import build_net, read_checkpoint
    from lightning_modules.metrics import evaluate
    from reports.environment import versions
    from reports.evaluation import coverage, write_evaluation
    from reports.summary import print_summary

    checkpoint = read_checkpoint(ckpt)
    net, record, out = build_net(checkpoint), checkpoint["litesort"], Path(cfg.run_dir)
    predict = TorchPredictor(net, best_device(cfg.accelerator))
    probabilities, targets, indices = predict_all(predict, data.loader(split))
    names, files = [data.samples[i].path for i in indices], [data.source.file(i) for i in indices]
    scores = evaluate(probabilities, targets, record["classes"])
    score, clocks = judges(cfg)
    yardstick = create_backbone(score.reference, net.num_classes, pretrained=False)
    latency = clocks.measure(
        net, data.size, (score.reference, yardstick, score.reference_size),
        lambda size: partial(load, size=size, policy=data.resize), files,
    )  # fmt: skip
    results = {
        "status": "completed", "error": None, **facts, "ckpt": str(ckpt), "split": split, "photos": len(targets),
        "model": net.name, "origin": net.origin, "size": data.size, "classes": record["classes"],
        **{f"test/{key}": value for key, value in scores.items()},
        **coverage(targets, probabilities, cfg.target_accuracy),
        **profile(net, data.size), **score.judge(scores["f1_macro"], latency),
        "latency_ms": latency[0]["entries"]["model"]["median_ms"], "latency": latency, "versions": versions(),
    }  # fmt: skip
    written = write_evaluation(out, results, names, targets, probabilities, record["classes"])
    log_answers(
        loggers, probabilities, targets, record["classes"], names,
        lambda row: data.source.read(indices[row], min_side=256),
    )  # fmt: skip
    print_summary(results, [Path(ckpt), *written])
    return results


def load_data(record: dict[str, Any], cfg: DictConfig) -> tuple["WasteDataModule", str, str]:
    """The photos to judge on, which split of them, and their name: the checkpoint's own, where `data` is silent."""
    from hydra.utils import instantiate

    said = {key: value for key, value in cfg.data.items_ex(resolve=False) if value is not None}
    other = bool(said.keys() & {"_target_", "root", "file"})
    if "_target_" not in said:
        cfg = conf.merged(record["config"], {"data": said, "split": cfg.split, "run_dir": cfg.run_dir})
        check(cfg)
    square = {key: record["preprocessing"][key] for key in ("size", "resize")}
    data = instantiate(cfg.data, classes=record["classes"], quarantine_dir=cfg.run_dir, **square)
    data.prepare_data()
    data.setup("test")
    return data, {"auto": "all" if other else "test"}.get(cfg.split, cfg.split), conf.data_name(cfg)


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> float:
    """Judge one checkpoint; returns its score."""
    from lightning_modules.checkpoint import read_checkpoint

    record = read_checkpoint(cfg.ckpt)["litesort"]
    check(cfg)
    data, split, name = load_data(record, cfg)
    return judge(cfg.ckpt, data, cfg, {"name": conf.merged(record["config"]).name, "data": name}, split)["score"]


if __name__ == "__main__":
    launch(main)
