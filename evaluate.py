"""Judge a checkpoint or an exported file: macro F1, calibration, latency, and the one score of F1 and time.

python evaluate.py ckpt=runs/.../best.ckpt                on the run's own test photos; or ckpt=model.onnx, .xml, .pt2
python evaluate.py ckpt=... data=folder data.root=belt    on other photos
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

import conf
from conf.check import check
from conf.launch import launch
from conf.trust import trusted

if TYPE_CHECKING:
    from datamodules.waste import WasteDataModule
    from deployment.clocks import Clocks
    from deployment.runtimes import Artefact
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
    ckpt: str, data: "WasteDataModule", cfg: DictConfig, facts: dict[str, Any], split: Any = "test",
    loggers: Any = (),
) -> dict[str, Any]:  # fmt: skip
    """Judge a file that can answer: writes into `cfg.run_dir`, prints, returns what metrics.json holds, `facts` too."""
    from callbacks.mistakes import write_mistakes
    from callbacks.pictures import log_pictures
    from callbacks.wandb_media import log_answers
    from datamodules.images import load, resize
    from deployment.profile import cost, size_in_bytes
    from deployment.runtimes import predict_all
    from lightning_modules.backbones import create_backbone
    from lightning_modules.metrics import evaluate
    from reports.environment import versions
    from reports.evaluation import coverage, write_evaluation
    from reports.summary import print_summary

    predict, record, net = open_artefact(ckpt, cfg)
    classes = record["classes"]
    probabilities, targets, indices = predict_all(predict, data.loader(split))
    names, files = [data.samples[i].path for i in indices], [data.source.file(i) for i in indices]
    scores = evaluate(probabilities, targets, classes)
    score, clocks = judges(cfg)
    yardstick = create_backbone(score.reference, len(classes), pretrained=False)
    latency = clocks.measure(
        net or predict, data.size, (score.reference, yardstick, score.reference_size),
        lambda size: partial(load, size=size, policy=data.resize), files,
    )  # fmt: skip
    timed = latency[0]["entries"]["model"]
    results = {
        "status": "completed", "error": None, **facts, "ckpt": str(ckpt), "split": split, "photos": len(targets),
        "model": record["model"]["name"], "origin": record["origin"], "size": data.size, "classes": classes,
        **{f"test/{key}": value for key, value in scores.items()},
        **coverage(targets, probabilities, cfg.target_accuracy),
        **cost(net, record, data.size), "bytes": size_in_bytes(ckpt, net), **score.judge(scores["f1_macro"], latency),
        "latency_ms": timed["median_ms"], "ratio": timed["ratio"], "latency": latency, "versions": versions(),
    }  # fmt: skip
    written = write_evaluation(Path(cfg.run_dir), results, names, targets, probabilities, classes)
    answers = (probabilities, targets, classes, names)
    mistakes = write_mistakes(
        Path(cfg.run_dir), *answers, lambda row, size: resize(data.source.read(indices[row], size), size, data.resize),
        data.size, net, cfg.get("mistakes", 12),
    )  # fmt: skip
    log_answers(loggers, *answers, lambda row: data.source.read(indices[row], 256))
    log_pictures(loggers, Path(cfg.run_dir))
    print_summary(results, [Path(ckpt), *written, *([mistakes] if mistakes else [])])
    return results


def open_artefact(ckpt: str, cfg: DictConfig) -> "Artefact":
    """Load what is to be judged, with the threads that it is timed with and the options of its runtime."""
    from deployment.runtimes import best_device, load_artefact
    from lightning_modules.checkpoint import load_net

    device = best_device(cfg.accelerator)
    return load_artefact(ckpt, load_net, device, cfg.latency.settings.threads, cfg.get("runtime"))


def load_data(record: dict[str, Any], cfg: DictConfig) -> tuple["WasteDataModule", Any, dict[str, Any]]:
    """The photos to judge on, the checkpoint's own where `data` is silent; which split of them; facts to report."""
    from hydra.utils import instantiate

    said = {key: value for key, value in cfg.data.items_ex(resolve=False) if value is not None}
    other = bool(said.keys() & {"_target_", "root", "file"})
    if "_target_" not in said:
        cfg = trusted(record["config"], {"data": said, "split": cfg.split, "run_dir": cfg.run_dir})
        check(cfg)
    square = {key: record["preprocessing"][key] for key in ("size", "resize")}
    data = instantiate(cfg.data, classes=record["classes"], quarantine_dir=cfg.run_dir, **square)
    data.prepare_data()
    data.setup("test")
    facts = {"name": conf.merged(record["config"]).get("name"), "data": conf.data_name(cfg)}
    return data, {"auto": "all" if other else "test"}.get(cfg.split, cfg.split), facts


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> float:
    """Judge one checkpoint or exported file; returns its score."""
    check(cfg)
    data, split, facts = load_data(open_artefact(cfg.ckpt, cfg).record, cfg)
    return judge(cfg.ckpt, data, cfg, facts, split)["score"]


if __name__ == "__main__":
    launch(main)
