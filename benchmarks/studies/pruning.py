"""Macro F1 of pruned networks before any further training, by importance and scope.

    python benchmarks/studies/pruning.py RUN/best.ckpt OTHER/best.ckpt

Each network is pruned to half of its multiply-accumulates in one step. BatchNorm statistics are computed again from
training images of all classes. Macro F1 is that of the validation images of the run.
"""

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

import hydra
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from deployment.complexity import profile
from deployment.predictors import TorchPredictor, predict_all
from lightning_modules.backbones.backbone import Backbone
from lightning_modules.checkpoint import load_net
from lightning_modules.metrics import evaluate
from lightning_modules.pruning.structured import (
    IMPORTANCE,
    SCOPES,
    find_ratio,
    gather_gradients,
    prune,
    unprunable_layers,
)
from litesort.cli.build import load_data
from litesort.cli.compose import CONF


def batches(data: Any, count: int) -> list[Any]:
    """Training batches of all classes, preprocessed for the network, without augmentation."""
    return [data.on_after_batch_transfer(batch, 0) for batch in islice(data.loader("train", shuffle=True), count)]


@torch.no_grad()
def reset_batchnorm(net: Backbone, training_batches: list[Any]) -> Backbone:
    """Recompute the statistics of all BatchNorm layers."""
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True  # plain averages
    for images, *_ in training_batches:
        net(images)
    return net.eval()


def pruned(net: Backbone, size: int, share: float, importance: str, scope: str) -> Backbone:
    """Return the network, pruned to a share of its multiply-accumulates."""
    settings: dict[str, Any] = {"importance": importance, "scope": scope, "protected": unprunable_layers(net, size)}
    whole = profile(net, size)["macs"]
    cost = lambda ratio: profile(prune(net, size, ratio, **settings), size)["macs"] / whole  # noqa: E731
    return prune(net, size, find_ratio(cost, share, f"--macs {share}"), **settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt", nargs="+", type=Path, help="checkpoints of runs")
    parser.add_argument("--macs", type=float, default=0.5, help="share of the multiply-accumulates to keep")
    parser.add_argument("--batches", type=int, default=28, help="training batches for gradients and statistics")
    options = parser.parse_args()
    table = Table(title=f"macro F1 on validation images, {options.macs:.0%} of the MACs kept", title_justify="left")
    table.add_column("importance, scope")
    columns: list[list[str]] = []
    for ckpt in options.ckpt:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = hydra.compose("evaluate", overrides=[f"ckpt={ckpt}", f"run_dir={ckpt.parent}"])
        net, card = load_net(ckpt)
        data, *_ = load_data(card, cfg)
        training_batches = batches(data, options.batches)

        def f1(small: Backbone, data: Any = data, classes: list[str] = card["classes"]) -> float:
            probabilities, targets, _ = predict_all(TorchPredictor(small), data.loader("val"))
            return evaluate(probabilities, targets, classes)["f1_macro"]

        table.add_column(f"{net.name}, {data.size} px ({f1(net):.3f})", justify="right")
        gather_gradients(net, training_batches, len(training_batches))
        variants = [(importance, scope) for importance in IMPORTANCE for scope in SCOPES]
        columns.append(
            [
                f"{f1(reset_batchnorm(pruned(net, data.size, options.macs, *variant), training_batches)):.3f}"
                for variant in variants
            ]
        )
    for variant, *row in zip([f"{i}, {s}" for i in IMPORTANCE for s in SCOPES], *columns, strict=True):
        table.add_row(variant, *row)
    Console().print(table)


if __name__ == "__main__":
    main()
