"""Speed of exported small networks at several sizes, relative to a resnet18d at 224 px, eager and in the same runtime.

    python benchmarks/deploy.py
    python benchmarks/deploy.py --models lcnet_050 --sizes 96 --formats onnx

Networks are untrained, which does not change their time. All variants of one network and the references (fp32) run in
turn, one image at a time, on one thread. A cell has three numbers: speed relative to the eager reference, speed
relative to the reference in the same runtime, and ms. ~ marks a measurement that did not settle.
"""

import argparse
import contextlib
import functools
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from datamodules.cache import default_cache_dir
from deployment.formats import FORMATS
from deployment.latency import LatencyBenchmark, LatencyReport, Reference, Settings
from lightning_modules.backbones.backbone import create_backbone
from lightning_modules.checkpoint import make_model_card
from litesort.system import describe_machine

MODELS = (
    "resnet18d",
    "tf_efficientnet_lite0",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_small",
    "mobilenetv3_small_100",
    "lcnet_050",
)
CLASSES = [f"class{number}" for number in range(6)]
REFERENCE = "resnet18d"


def images(size: int, count: int = 16) -> list[np.ndarray]:
    """Calibration images for int8: batches of 8 smooth images with grain, (8, S, S, 3) uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 7, 7, generator=generator) * 255
    fine = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    fine = fine + 9 * torch.randn(fine.shape, generator=generator)
    return list(fine.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy().reshape(-1, 8, size, size, 3))


def variants(name: str, size: int, formats: list[str], folder: Path) -> dict[str, tuple[Any, int]]:
    """Build one network at one size: eager, and exported to each format in fp32 and int8."""
    net = create_backbone(name, len(CLASSES), pretrained=False).eval()
    card = make_model_card(net, CLASSES, preprocessing={"size": size, "resize": "pad"})
    found: dict[str, tuple[Any, int]] = {f"{size} eager": (net, size)}
    for kind in formats:
        one = FORMATS[kind]
        source = one.write(net, folder / f"{name}-{size}{one.suffix}", card)
        found[f"{size} {kind} fp32"] = one.load(source), size
        if "int8" in one.precisions:
            with contextlib.redirect_stdout(io.StringIO()):  # hides the progress bar
                small = one.quantize(source, folder / f"{name}-{size}-int8{one.suffix}", images(size))
            found[f"{size} {kind} int8"] = one.load(small), size
    return found


def measure(name: str, options: argparse.Namespace) -> LatencyReport:
    """Latency of one network at all sizes."""
    benchmark = LatencyBenchmark(end_to_end=False, settings=Settings(seconds=options.seconds, max_rounds=1000))
    net = functools.partial(create_backbone, REFERENCE, len(CLASSES), pretrained=False)
    reference = Reference(REFERENCE, options.reference_size, net, default_cache_dir() / "references")
    with tempfile.TemporaryDirectory() as folder:
        models = {}
        for size in options.sizes:
            models |= variants(name, size, options.formats, Path(folder))
        return benchmark.measure(models, reference, functools.partial, [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="timm names")
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 192, 160, 128, 96], help="sides, px")
    parser.add_argument("--formats", nargs="*", default=["openvino"], choices=list(FORMATS))
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds per variant")
    parser.add_argument("--reference-size", type=int, default=224, help="side of the reference, px")
    options = parser.parse_args()
    shown = ["eager", *(f"{k} {p}" for k in options.formats for p in ("fp32", "int8") if p in FORMATS[k].precisions)]
    print(f"one thread; {describe_machine()}")
    table = Table(title=f"speed relative to {REFERENCE} {options.reference_size} px: eager | same runtime | ms")
    for column in ("network", "px", *shown):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name in options.models:
        report = measure(name, options)
        for size in options.sizes:
            cells = [report.row(f"{size} {variant}") for variant in shown]
            table.add_row(name, str(size), *map(_cell, cells))
        table.add_section()
    Console(width=120).print(table)


def _cell(row: dict[str, Any]) -> str:
    return (
        f"{1 / row['ratio']:.1f} | {1 / row['ratio_same_runtime']:.1f} | "
        f"{'~' if row['unsteady'] else ''}{row['latency_ms']:.2f}"
    )


if __name__ == "__main__":
    main()
