"""Benchmarks of litesort on a GPU: one table for each part, in at most `--minutes` minutes.

    python benchmarks/gpu.py            # an idle machine with a GPU and 16 cores
    python benchmarks/gpu.py --device cpu --models resnet10t --sizes 32 --batch 8 --steps 3 --images 64 --workers 0

1. Synchronisation: training steps under `torch.cuda.set_sync_debug_mode`, which warns where the host waits.
2. Augmentation on the device: litesort and kornia, plain and compiled.
3. Feed: transfer of batches from the pixel cache to the device, pinned if there is a GPU.
4. Training: litesort, ImageFolder with torchvision v2, timm's loader, and a bare step on one batch.
5. Settings of the bare step: precision, memory format, compilation.
6. Latency: eager, compiled, ONNX Runtime.

Each number is measured over `--steps` steps after `--warmup` steps, with a synchronisation before and after. If a
compiler, a runtime or another package fails, the cell contains the error. A run on a CPU only tests the script.
"""

import argparse
import functools
import importlib.util
import io
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import kornia.augmentation
import numpy as np
import pytorch_lightning as pl
import torch
from baselines import TIMM, TORCHVISION, Task, pipeline
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from images import write_images
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch import nn

from datamodules.batch import Batch
from datamodules.datamodule import ImageDataModule
from lightning_modules.backbones.backbone import Backbone, create_backbone
from lightning_modules.checkpoint import make_model_card
from lightning_modules.objectives.base import build_objective
from lightning_modules.precision import supported_precision
from litesort.cli.build import data_builder
from litesort.cli.compose import CONF

sys.path.insert(0, str(Path(__file__).parents[1]))  # train.py is not in an installed package
from train import train

Rows = Iterator[tuple[Any, ...]]  # rows of a table; the first is the heading


class Bench:
    """Settings, images and methods that all parts share.

    Args:
        options: The command line.
        scratch: Folder for images and runs.
    """

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self.options, self.scratch = options, scratch
        self.device = torch.device(options.device)
        self.root = options.root or write_images(scratch / "images", options.images)
        self.classes = sorted(folder.name for folder in self.root.iterdir() if folder.is_dir())
        self.precision = supported_precision("auto", options.device)

    def config(self, *overrides: str) -> DictConfig:
        """Compose the config of a training on the images."""
        settings = [
            "data=folder", f"data.root={self.root}", f"data.batch_size={self.options.batch}", "augment=randaugment",
            "model=timm", "model.pretrained=false", f"data.cache_dir={self.scratch / 'cache'}",
            f"trainer.accelerator={self.device.type}", f"trainer.precision={self.precision}",
            f"run_dir={self.scratch / 'run'}", "logger=none", "callbacks.progress=null", *overrides,
        ]  # fmt: skip
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("train", overrides=settings)

    def data(self, size: int) -> ImageDataModule:
        """Return the data module of a training."""
        data = data_builder(self.config(f"data.size={size}").data)()
        data.prepare_data()
        data.setup("fit")
        return data

    def images_per_second(self, step: Callable[[], Any], batch: int | None = None) -> float:
        """Run a step repeatedly; returns its throughput."""
        for _ in range(self.options.warmup):
            step()
        wait(self.device)
        start = time.perf_counter()
        for _ in range(self.options.steps):
            step()
        wait(self.device)
        return (batch or self.options.batch) * self.options.steps / (time.perf_counter() - start)

    def on_device(self, batch: Batch) -> Batch:
        """Start the transfer of a batch."""
        return Batch(*(part.to(self.device, non_blocking=True) for part in batch[:3]), move(batch.draws, self.device))


def move(draws: Any, device: torch.device) -> Any:
    """Start the transfer of augmentation parameters, nested tuples of tensors and plain values."""
    if isinstance(draws, torch.Tensor):
        return draws.to(device, non_blocking=True)
    if isinstance(draws, tuple):
        moved = [move(part, device) for part in draws]
        return type(draws)(*moved) if hasattr(draws, "_fields") else tuple(moved)
    if isinstance(draws, list):
        return [move(part, device) for part in draws]
    if isinstance(draws, dict):
        return {key: move(part, device) for key, part in draws.items()}
    return draws


def wait(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


class Measured(Exception):
    """Ends a training. The argument is the throughput, images per second."""


class Clock(pl.Callback):
    """Measure the steps of a training, then end it.

    Args:
        warmup, steps, batch: Number of steps before the measurement, number of measured steps, images per step.
        sync: Whether torch warns where a measured step waits for the GPU.
    """

    def __init__(self, warmup: int, steps: int, batch: int, sync: bool = False) -> None:
        self.warmup, self.steps, self.batch, self.sync, self.done = warmup, steps, batch, sync, 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self.done == self.warmup:
            wait(pl_module.device)
            self.start = time.perf_counter()
            if self.sync:
                torch.cuda.set_sync_debug_mode("warn")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.done += 1
        if self.done == self.warmup + self.steps:
            if self.sync:
                torch.cuda.set_sync_debug_mode("default")
            wait(pl_module.device)
            raise Measured(self.batch * self.steps / (time.perf_counter() - self.start))


def litesort(bench: Bench, model: str, size: int, sync: bool = False) -> float:
    """Images per second of `train.train`, with its callbacks."""
    cfg = bench.config(f"model.name={model}", f"data.size={size}", "epochs=100000")
    clock = {"_target_": f"{Clock.__module__}.Clock", "warmup": bench.options.warmup, "steps": bench.options.steps}
    OmegaConf.update(cfg, "callbacks.clock", {**clock, "batch": bench.options.batch, "sync": sync}, force_add=True)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            train(cfg)
    except Measured as done:
        return float(done.args[0])
    raise AssertionError("the training ended before all steps were measured")


def bare_step(
    bench: Bench, model: str, size: int, precision: str, channels_last: bool = True, compiled: bool = False
) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Return the training step of litesort in plain PyTorch: network, loss, clipping, optimiser, schedule."""
    cfg = bench.config(f"model.name={model}", f"data.size={size}")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = instantiate(cfg.model, num_classes=len(bench.classes)).to(bench.device, memory_format=layout).train()
    counts = list(range(10, 10 + len(bench.classes)))
    objective = build_objective(instantiate(cfg.objective, _partial_=True), counts).to(bench.device)
    mixed = precision != "32-true"
    optimizer, schedule = instantiate(cfg.optimizer)(net, total_steps=100_000, steps_per_epoch=100, fused=not mixed)
    parameters = list(net.parameters())
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    scaler = torch.amp.GradScaler(bench.device.type, enabled=precision == "16-mixed")
    if compiled:
        net.compile()

    def step(images: torch.Tensor, targets: torch.Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast(bench.device.type, dtype=dtype, enabled=mixed, cache_enabled=False):
            loss = objective(net(images.contiguous(memory_format=layout)), targets)["loss"]
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()

    return step


def one_batch(bench: Bench, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (B, 3, S, S) float in [0, 1] and targets (B,) on the device."""
    images = torch.rand(bench.options.batch, 3, size, size, device=bench.device)
    return images, torch.arange(bench.options.batch, device=bench.device) % len(bench.classes)


def bare(bench: Bench, model: str, size: int, **settings: Any) -> float:
    """Images per second of the bare step on one batch."""
    step = bare_step(bench, model, size, settings.pop("precision", bench.precision), **settings)
    return bench.images_per_second(functools.partial(step, *one_batch(bench, size)))


def with_pipeline(bench: Bench, name: str, model: str, size: int) -> float:
    """Images per second of the bare step, fed by ImageFolder with worker processes."""
    files = [(str(file), bench.classes.index(file.parent.name)) for file in sorted(bench.root.glob("*/*"))]
    task = Task({}, str(bench.root), files, [], size, bench.options.batch, bench.options.workers, 1, 1)
    loader = pipeline(name, task, create_backbone(model, len(bench.classes), pretrained=False))
    batches = chain.from_iterable(repeat(loader))  # epoch after epoch
    step = bare_step(bench, model, size, bench.precision)

    def next_step() -> None:
        images, targets = next(batches)
        step(images.to(bench.device, non_blocking=True), targets.to(bench.device, non_blocking=True))

    return bench.images_per_second(next_step)


def synchronisation(bench: Bench) -> Rows:
    """Lines at which the host waits for the GPU in a training step."""
    yield "network", "waits in the measured steps"
    for model in bench.options.models:
        if bench.device.type != "cuda":
            litesort(bench, model, bench.options.sizes[0])
            yield model, "needs CUDA"
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            litesort(bench, model, bench.options.sizes[0], sync=True)
        places = {f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)}
        yield model, ", ".join(sorted(places)) or "none"


def augmentation(bench: Bench) -> Rows:
    """Augmentation on the device, two operations an image, a flip and an erased box."""
    names = ("litesort", "kornia")
    yield "pixels", *names, *(f"{name}, compiled" for name in names if bench.options.compile)
    for size in bench.options.sizes:
        data = bench.data(size)
        batch = bench.on_device(next(iter(data.train_dataloader())))
        kornia_pipeline = nn.Sequential(
            kornia.augmentation.auto.RandAugment(n=2, m=14),
            kornia.augmentation.RandomHorizontalFlip(p=0.5),
            kornia.augmentation.RandomErasing(p=0.25),
        )
        images = data.on_after_batch_transfer(batch._replace(draws=None), 0).images
        calls: list[Callable[[], Any]] = [
            functools.partial(data.on_after_batch_transfer, batch, 0),
            functools.partial(kornia_pipeline, images),
        ]
        calls += [torch.compile(call) for call in calls if bench.options.compile]
        yield size, *(attempt(bench.images_per_second, call) for call in calls)


def feed(bench: Bench) -> Rows:
    """Transfer of batches from the pixel cache to the device, augmentation parameters included."""
    yield "pixels", "images/s", "ms/batch", "pinned"
    for size in bench.options.sizes:
        loader = bench.data(size).train_dataloader()
        batches = chain.from_iterable(repeat(loader))
        speed = bench.images_per_second(lambda batches=batches: bench.on_device(next(batches)))
        yield size, speed, f"{1e3 * bench.options.batch / speed:.2f}", loader.pin


def training(bench: Bench) -> Rows:
    """Images per second in training; the target is at least 95 % of the bare step."""
    yield "network", "pixels", "bare step", "litesort", "litesort / bare", "torchvision v2", "timm"
    for model in bench.options.models:
        for size in bench.options.sizes:
            bare_speed, speed = bare(bench, model, size), litesort(bench, model, size)
            others = [attempt(with_pipeline, bench, name, model, size) for name in (TORCHVISION, TIMM)]
            yield model, size, bare_speed, speed, f"{speed / bare_speed:.1%}", *others


def settings(bench: Bench) -> Rows:
    """Images per second of the bare step, with one setting changed at a time."""
    variants: dict[str, dict[str, Any]] = {
        "32-true": {"precision": "32-true"},
        "bf16-mixed": {"precision": "bf16-mixed"},
        "16-mixed": {"precision": "16-mixed"},
        "without channels_last": {"channels_last": False},
        "compiled": {"compiled": True},
    }
    if bench.device.type != "cuda":
        del variants["16-mixed"]
    if not bench.options.compile:
        del variants["compiled"]
    yield "network", "pixels", *variants
    for model in bench.options.models:
        size = bench.options.sizes[-1]
        yield model, size, *(attempt(bare, bench, model, size, **chosen) for chosen in variants.values())


def latency(bench: Bench) -> Rows:
    """Milliseconds for a batch of 1 and of 32 images; the input of the ONNX file is uint8."""
    yield "network", "pixels", "batch", "eager", "ONNX Runtime", *(["compiled"] if bench.options.compile else [])
    for model in bench.options.models:
        size, classes = bench.options.sizes[-1], len(bench.classes)
        net = create_backbone(model, classes, pretrained=False).eval()
        session = attempt(onnx_session, bench, net, size)
        net = net.to(bench.device, memory_format=torch.channels_last)
        for batch in (1, 32):
            images = torch.rand(batch, 3, size, size, device=bench.device).contiguous(memory_format=torch.channels_last)
            calls: list[Any] = [functools.partial(net, images)]
            calls.append(functools.partial(session, batch) if callable(session) else session)
            if bench.options.compile:
                calls.append(functools.partial(torch.compile(net), images))
            yield model, size, batch, *(milliseconds(bench, call) for call in calls)


@torch.inference_mode()
def milliseconds(bench: Bench, call: Any) -> str:
    """Time a call, ms. Text is an error of an earlier call and is returned unchanged."""
    speed = attempt(bench.images_per_second, call, 1) if callable(call) else call
    return speed if isinstance(speed, str) else f"{1e3 / speed:.2f}"


def onnx_session(bench: Bench, net: Backbone, size: int) -> Callable[[int], Any]:
    """Export a network and open it in ONNX Runtime on the device; returns a function of the batch size."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise RuntimeError("onnxruntime is not installed")
    import onnxruntime

    from deployment.onnx_graph import trace_onnx

    provider = {"cuda": "CUDAExecutionProvider"}.get(bench.device.type, "CPUExecutionProvider")
    if provider not in onnxruntime.get_available_providers():
        raise RuntimeError(f"{provider} is not installed")
    card = make_model_card(net, bench.classes, preprocessing={"size": size, "resize": "pad"})
    graph = trace_onnx(net, card, 1.0, "onnx")
    session = onnxruntime.InferenceSession(graph, providers=[provider])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: np.zeros((batch, size, size, 3), np.uint8)})


def attempt(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call a function; an error becomes the content of the cell."""
    try:
        return function(*arguments, **named)
    except Exception as error:  # of a compiler, a runtime or another package
        first_line = next(iter(str(error).strip().splitlines()), "")
        return f"{type(error).__name__}: {first_line[:60]}"


PARTS = (synchronisation, augmentation, feed, training, settings, latency)


def run(options: argparse.Namespace) -> list[Table]:
    """Print the tables of the chosen parts until the time limit; returns them."""
    console, start, tables = Console(width=140), time.perf_counter(), []
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(options, Path(scratch))
        for part in PARTS:
            if part.__name__ not in options.parts:
                continue
            rows = part(bench)
            table = Table(title=f"{part.__doc__} {describe(bench)}", title_justify="left")
            for number, heading in enumerate(next(rows)):
                table.add_column(str(heading), justify="right" if number else "left")
            for row in rows:
                table.add_row(*(f"{cell:,.0f}" if isinstance(cell, float) else str(cell) for cell in row))
                if time.perf_counter() - start > 60 * options.minutes:
                    table.caption = "incomplete: the time limit was reached"
                    break
            console.print(table)
            tables.append(table)
    return tables


def describe(bench: Bench) -> str:
    """Return device, batch size and precision."""
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else "CPU"
    return f"{name}, batch {bench.options.batch}, {bench.precision}"


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet18d", "resnet50", "mobilenetv3_large_100"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 224])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--workers", type=int, default=16, help="worker processes of the other pipelines")
    parser.add_argument("--images", type=int, default=2400, help="images to generate")
    parser.add_argument("--root", type=Path, help="folder of class folders (default: generated images)")
    parser.add_argument("--parts", nargs="+", default=[part.__name__ for part in PARTS])
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args(words)


if __name__ == "__main__":
    run(arguments())
