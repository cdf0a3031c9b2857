"""Speed of exported small networks at several sizes, relative to an eager resnet18d.

    python benchmarks/deploy.py
    python benchmarks/deploy.py --models lcnet_050 --sizes 96 --formats onnx

Networks are untrained, which does not change their time. All forms of one network and an eager fp32 resnet18d at 224
px run in turn, one image at a time, on one thread. The table has medians over rounds of the reference's time divided
by the candidate's in the same round.
"""

import argparse
import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from deployment.formats import FORMATS
from deployment.latency.timer import Candidate, Settings, model_clock, predictor_candidate, torch_candidate
from lightning_modules.backbones.backbone import create_backbone
from lightning_modules.checkpoint import make_record

MODELS = (
    "tf_efficientnet_lite0",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_small",
    "mobilenetv3_small_100",
    "lcnet_050",
)
CLASSES = [f"class{number}" for number in range(6)]
REFERENCE = "resnet18d"


def images(size: int, count: int = 16) -> list[np.ndarray]:
    """Calibration images for int8: batches of 8 smooth pictures with grain, (8, S, S, 3) uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 7, 7, generator=generator) * 255
    fine = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    fine = fine + 9 * torch.randn(fine.shape, generator=generator)
    return list(fine.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy().reshape(-1, 8, size, size, 3))


def candidates(name: str, size: int, formats: list[str], room: Path) -> dict[str, Candidate]:
    """One network at one size: eager, and as a file of each format in fp32 and int8."""
    net = create_backbone(name, len(CLASSES), pretrained=False).eval()
    record = make_record(net, CLASSES, preprocessing={"size": size, "resize": "pad"})
    eager = net.to(memory_format=torch.channels_last)
    found = {f"{size} eager": torch_candidate(eager, size)}
    for kind in formats:
        one = FORMATS[kind]
        source = one.write(net, room / f"{name}-{size}{one.suffix}", record)
        found[f"{size} {kind} fp32"] = predictor_candidate(one.load(source), size)
        if "int8" in one.precisions:
            small = one.quantize(source, room / f"{name}-{size}-int8{one.suffix}", images(size))
            found[f"{size} {kind} int8"] = predictor_candidate(one.load(small), size)
    return found


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Entries of one network at all sizes, the reference among them."""
    with tempfile.TemporaryDirectory() as room:
        build = functools.partial(candidates, name, formats=options.formats, room=Path(room))
        everything = {key: one for size in options.sizes for key, one in build(size).items()}
        reference = create_backbone(REFERENCE, len(CLASSES), pretrained=False).eval()
        everything[REFERENCE] = torch_candidate(reference.to(memory_format=torch.channels_last), options.reference_size)
        settings = Settings(seconds=options.seconds, min_rounds=15, max_rounds=1000, warmup=3)
        (record,) = model_clock(everything, reference=REFERENCE, batches=[1], settings=settings)
    return record["entries"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="timm names")
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 160, 128, 96], help="sides, px")
    parser.add_argument("--formats", nargs="+", default=["openvino"], choices=list(FORMATS))
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds per network")
    parser.add_argument("--reference-size", type=int, default=224, help="side of the reference, px")
    options = parser.parse_args()
    forms = [
        "eager",
        *(f"{k} {p}" for k in options.formats for p in ("fp32", "int8") if p in FORMATS[k].precisions),
    ]
    table = Table(title=f"times as fast as {REFERENCE}, fp32, eager, {options.reference_size} px (in brackets: ms)")
    for column in ("network", "px", *forms):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name in track(options.models, "measuring", transient=True):
        entries = measure(name, options)
        for size in options.sizes:
            cells = [entries[f"{size} {form}"] for form in forms]
            table.add_row(name, str(size), *(f"{1 / e['ratio']:.1f} ({e['median_ms']:.2f})" for e in cells))
        table.add_section()
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
