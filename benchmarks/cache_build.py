"""Build time of the pixel cache, in images per second and core: litesort, Pillow, and torchvision's decoder.

    python benchmarks/cache_build.py                 # generated JPEGs of 512 x 384 px
    python benchmarks/cache_build.py --root photos   # all JPEGs below a folder

Each decoder reads a file and resizes it to a padded square of --size px. The table has medians of the process CPU time
on one thread, measured in turn. The line below it has the time of the whole build (with digests and file) on all cores.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from images import side_by_side, write_images
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table
from torchvision.io import ImageReadMode
from torchvision.transforms.v2 import functional

from datamodules import images
from datamodules.cache import open_pixels
from datamodules.cache.config import CacheConfig
from datamodules.sources.base import Sample, Source
from litesort.system import available_cpus

TARGET = 500  # images per second and core


class Files(Source):
    """A list of files."""

    def __init__(self, root: Path, files: list[Path]) -> None:
        self.root, self.classes = root, ["image"]
        self.samples = [Sample(str(path.relative_to(root)), 0) for path in files]


def with_pillow(path: Path, size: int) -> np.ndarray:
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.asarray(ImageOps.pad(upright, (size, size), Image.Resampling.BILINEAR, color=(128, 128, 128)))


def with_torchvision(path: Path, size: int) -> torch.Tensor:
    data = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    # the Python wrapper of this operator warns at each call
    pixels = torch.ops.image.decode_jpeg(data, ImageReadMode.RGB.value, True)
    height, width = pixels.shape[1:]
    scale = size / max(height, width)
    height, width = round(height * scale), round(width * scale)
    pixels = functional.resize(pixels, [height, width], antialias=True)
    return functional.pad(pixels, [(size - width) // 2, (size - height) // 2], fill=128)


def decode_all(files: list[Path], load: Callable[[Path], object]) -> Callable[[], int]:
    def job() -> int:
        for path in files:
            load(path)
        return len(files)

    return job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder that is searched for JPEGs (default: generated images)")
    parser.add_argument("--images", type=int, default=256, help="images to generate, or to compare on")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        root = options.root or write_images(Path(scratch) / "images", options.images)
        found = sorted(path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        files = found[:: max(1, len(found) // options.images)]
        jobs = {
            "litesort": decode_all(files, lambda path: images.load(path, options.size, "pad")),
            "Pillow": decode_all(files, lambda path: with_pillow(path, options.size)),
            "torchvision": decode_all(files, lambda path: with_torchvision(path, options.size)),
        }
        results = side_by_side(jobs, options.rounds)
        start, start_cpu = time.perf_counter(), time.process_time()
        open_pixels(
            Files(root, found), options.size, "pad", CacheConfig(cache_dir=Path(scratch) / "cache"), progress=False
        )
        wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    table = Table(title=f"{len(files)} JPEGs -> {options.size} px, one thread")
    for column in ("decoder", "CPU ms/image", "images/s/core", "times Pillow"):
        table.add_column(column, justify="left" if column == "decoder" else "right")
    for name, (each, _) in results.items():
        table.add_row(name, f"{each:.3f}", f"{1e3 / each:,.0f}", f"{results['Pillow'][0] / each:.2f}")
    console.print(table)
    rates = f"{len(found) / wall:,.0f} images/s (wall), {len(found) / cpu:,.0f} images/s/core (CPU)"
    console.print(f"whole build of {len(found)} images on {available_cpus()} cores: {rates}")
    console.print(f"litesort decodes at least {TARGET} images/s/core: {1e3 / results['litesort'][0] >= TARGET}")


if __name__ == "__main__":
    main()
