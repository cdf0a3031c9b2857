"""Training throughput: litesort with its defaults, a bare loop, and common pipelines that feed the same bare loop.

    python benchmarks/training.py                                  # generated JPEGs of 512 x 384 px
    python benchmarks/training.py --root photos --models lcnet_050

litesort is `train.train` with its default configuration (Lightning, metrics, progress bar, csv logger, checkpoints),
a weighted sampler, and two of 14 operations per image. The bare loop takes the same step (network, channels_last,
objective, optimiser, clipping, schedule) on one batch in memory. The pipelines read the same images with worker
processes: torchvision's ImageFolder with v2.RandAugment, and timm's create_loader with rand-m9-inc1. Each loop has a
separate process. In every round, all take the same number of steps, one after the other. The warm-up round, validation
and checkpoints are excluded. CPU time includes the workers.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from baselines import BARE, TIMM, TORCHVISION, BaselineProcess, Task, now
from hydra import compose, initialize_config_dir
from images import write_images
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from datamodules.datamodule import ImageDataModule
from datamodules.samplers import class_weights
from lightning_modules.classifier import ImageClassifier
from litesort.cli.compose import CONF

sys.path.insert(0, str(Path(__file__).parents[1]))  # train.py is not in an installed package
from train import train

LITESORT, ALL = "litesort", (BARE, TORCHVISION, TIMM)
BASELINES = {"resnet18d": (BARE,), "mobilenetv3_small": ALL, "lcnet_050": ALL}


class Measured(Exception):
    """Ends the training after all rounds. The argument is name -> one row (wall, CPU seconds) for each round."""


class Turns(pl.Callback):
    """Time the steps of each epoch. At the end of an epoch, each other loop takes the same number of steps.

    Args:
        baselines: Names of the other loops, as in `BASELINES`.
        rounds: Number of measured epochs, after one warm-up epoch.
        workers: Worker processes of a pipeline.
    """

    def __init__(self, baselines: list[str], rounds: int, workers: int) -> None:
        self.names, self.rounds, self.workers = baselines, rounds, workers
        self.baselines: dict[str, BaselineProcess] = {}
        self.clocks: dict[str, list[np.ndarray]] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: ImageClassifier) -> None:
        data: ImageDataModule = trainer.datamodule
        cfg = OmegaConf.create(pl_module.model_card["config"])
        task = Task(
            cfg={name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("model", "objective", "optimizer")},
            root=str(data.source.root),
            files=drawn_files(data, trainer.num_training_batches * data.batch_size),
            class_counts=data.class_counts,
            size=data.size,
            batch=data.batch_size,
            workers=self.workers,
            threads=torch.get_num_threads(),
            turns=self.rounds + 1,
        )
        self.baselines = {name: BaselineProcess(name, task) for name in self.names}

    def on_train_epoch_start(self, *_: object) -> None:
        self.start = now()

    def on_train_batch_end(self, *_: object) -> None:
        self.seconds = now() - self.start

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        turn = {LITESORT: self.seconds} | {name: baseline.take_turn() for name, baseline in self.baselines.items()}
        if trainer.current_epoch:
            for name, seconds in turn.items():
                self.clocks.setdefault(name, []).append(seconds)
        if trainer.current_epoch == self.rounds:
            raise Measured(self.clocks)

    def on_exception(self, *_: object) -> None:
        for baseline in self.baselines.values():
            baseline.close()


def drawn_files(data: ImageDataModule, count: int) -> list[tuple[str, int]]:
    """Files and labels of one epoch of training images, drawn with class-balanced weights."""
    rows = data.splits["train"]
    weights = class_weights(data.labels[rows], 1.0)
    chosen = np.random.default_rng(0).choice(rows, count, p=weights / weights.sum())
    return [(str(data.source.file(row)), int(data.labels[row])) for row in chosen]


def measure(model: str, options: argparse.Namespace, scratch: str) -> dict[str, list[np.ndarray]]:
    """Train and time all loops; returns name -> one row (wall, CPU seconds) for each round."""
    root = options.root or write_images(Path(scratch) / "images", 1200)
    names = ",".join(f"'{name}'" for name in BASELINES.get(model, ALL))
    turns = f"_target_:__main__.Turns,rounds:{options.rounds},workers:{options.workers},baselines:[{names}]"
    overrides = [
        f"model={model}", "model.pretrained=false", "data=folder", f"data.root={root}",
        f"data.size={options.size}", "augment=randaugment", "sampler=weighted",
        f"data.batch_size={options.batch}", f"epochs={options.rounds + 1}", f"run_dir={scratch}",
        f"trainer.limit_train_batches={options.steps}", "trainer.limit_val_batches=1", "trainer.accelerator=cpu",
        f"+callbacks.turns={{{turns}}}",
    ]  # fmt: skip
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=overrides)
    try:
        train(cfg)
    except Measured as done:
        return done.args[0]
    raise AssertionError("the training ended before all rounds were measured")


def rows(clocks: dict[str, list[np.ndarray]], images: int) -> Iterator[list[str]]:
    reference = np.array(clocks[LITESORT])
    for name, seconds in clocks.items():
        wall, cpu = np.median(seconds, axis=0)
        ratios = np.array(seconds) / reference  # within a round, other load affects both
        low, (by_wall, by_cpu), high = np.quantile(ratios, (0.25, 0.5, 0.75), axis=0)
        yield [name, f"{images / wall:.1f}", f"{images / cpu:.1f}", f"{by_wall:.2f}", f"{low[0]:.2f} - {high[0]:.2f}",
               f"{by_cpu:.2f}"]  # fmt: skip


def make_table(model: str, options: argparse.Namespace, clocks: dict[str, list[np.ndarray]]) -> Table:
    sizes = f"{options.size} px, batch {options.batch}, {torch.get_num_threads()} thread(s)"
    table = Table(title=f"{model}, {sizes}, {options.rounds} rounds of {options.steps} steps")
    for column in ("", "images/s", "images/CPU s", "time, litesort = 1", "quartiles", "CPU time"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in rows(clocks, options.steps * options.batch):
        table.add_row(*row)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(BASELINES))
    parser.add_argument("--root", help="folder of class folders (default: generated images)")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=30, help="steps per turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2, help="processes of each pipeline")
    parser.add_argument("--threads", type=int, help="PyTorch threads (default: one per core)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    tables = []
    for model in options.models:
        with tempfile.TemporaryDirectory() as scratch:
            tables.append(make_table(model, options, measure(model, options, scratch)))
    console = Console(width=100)
    for table in tables:
        console.print(table)


if __name__ == "__main__":
    main()
