"""Host time per image of data loading: litesort's pixel cache and common pipelines.

    python benchmarks/feed.py                        # generated JPEGs of 512 x 384 px
    python benchmarks/feed.py --root photos          # a folder of class folders

Every pipeline returns uint8 batch tensors with labels, drawn by a weighted sampler. The common pipelines decode and
augment on the host; litesort augments on the device, which `benchmarks/augmentation.py` measures. A second row of
litesort is for data over the cache budget: images are decoded in each epoch, large JPEGs at a reduced scale.
torchvision's "resize" does the same work at full scale, without augmentation. Process CPU time is compared, because a
GPU waits for it. All run on one thread, in turn; the table has medians over the rounds.
"""

import argparse
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from images import side_by_side, write_images
from rich.console import Console
from rich.table import Table
from timm.data import create_transform
from timm.data.loader import fast_collate
from torch.utils.data import DataLoader, WeightedRandomSampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from datamodules.cache import open_pixels
from datamodules.cache.config import CacheConfig
from datamodules.loader import DecodingLoader, PixelLoader
from datamodules.samplers import WeightedSampler, class_weights
from datamodules.sources.base import Sample, Source

TARGET_MS, TARGET_RATIO = 0.05, 60
STREAMING, RESIZE = "litesort, over the cache budget", "torchvision v2 resize"


class ImageFolderSource(Source):
    """The samples of an ImageFolder as a source of litesort."""

    def __init__(self, folder: ImageFolder) -> None:
        self.root, self.classes = Path(folder.root), folder.classes
        self.samples = [Sample(str(Path(path).relative_to(folder.root)), label) for path, label in folder.samples]


def pixel_loader(folder: ImageFolder, size: int, batch: int, prefetch: int, cache_dir: str) -> Iterable:
    source = ImageFolderSource(folder)
    pixels = open_pixels(source, size, "pad", CacheConfig(cache_dir=cache_dir))
    if pixels is None:
        raise SystemExit(
            "the pixel cache exceeds its budget or the free memory: give fewer --images or a smaller --size"
        )
    labels = np.array(folder.targets)
    sampler = WeightedSampler(labels, power=0.5)
    return PixelLoader(pixels.array, labels, np.arange(len(labels)), sampler, batch, drop_last=True, prefetch=prefetch)


def streaming_loader(folder: ImageFolder, size: int, batch: int) -> Iterable:
    """Loader that litesort uses if the images exceed the cache budget."""
    labels = np.array(folder.targets)
    rows, sampler = np.arange(len(labels)), WeightedSampler(labels, power=0.5)
    source = ImageFolderSource(folder)
    return DecodingLoader(source, size, "pad", labels, rows, sampler, batch, drop_last=True, num_workers=0)


def decoding_loader(folder: ImageFolder, transform: Callable, batch: int, collate: Callable | None = None) -> Iterable:
    weights = class_weights(np.array(folder.targets), 0.5)
    sampler = WeightedRandomSampler(weights.tolist(), len(weights))
    dataset = ImageFolder(folder.root, transform)
    return DataLoader(dataset, batch, sampler=sampler, num_workers=0, drop_last=True, collate_fn=collate)


def count_images(feed: Iterable, count: int) -> Callable[[], int]:
    def job() -> int:
        images = 0
        for number, (pixels, *_) in enumerate(feed, 1):
            if pixels.dtype != torch.uint8:
                raise AssertionError(f"expected uint8 images, got {pixels.dtype}")
            images += len(pixels)
            if number == count:
                break
        return images

    return job


def pipelines(folder: ImageFolder, size: int, batch: int, cache_dir: str) -> dict[str, Callable[[], int]]:
    torchvision = v2.Compose(
        [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), v2.RandAugment(2, 14), v2.PILToTensor()]
    )
    resize = v2.Compose([v2.Resize((size, size)), v2.PILToTensor()])
    timm = create_transform(size, is_training=True, auto_augment="rand-m9-inc1", use_prefetcher=True)
    epoch = len(folder) // batch
    return {
        "litesort": count_images(pixel_loader(folder, size, batch, 2, cache_dir), epoch),
        "litesort, no thread": count_images(pixel_loader(folder, size, batch, 0, cache_dir), epoch),
        STREAMING: count_images(streaming_loader(folder, size, batch), 1),
        RESIZE: count_images(decoding_loader(folder, resize, batch), 1),
        "torchvision v2 RandAugment": count_images(decoding_loader(folder, torchvision, batch), 1),
        "timm rand-m9-inc1": count_images(decoding_loader(folder, timm, batch, fast_collate), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder of class folders (default: generated images)")
    parser.add_argument("--images", type=int, default=1024, help="images to generate")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    with tempfile.TemporaryDirectory() as scratch:
        root = options.root or write_images(Path(scratch) / "images", options.images)
        folder = ImageFolder(str(root))
        jobs = pipelines(folder, options.size, options.batch, scratch)
        results = side_by_side(jobs, options.rounds)
    table = Table(title=f"{len(folder)} images -> uint8 batches of {options.batch} at {options.size} px, one thread")
    for column in ("pipeline", "CPU ms/image", "wall ms/image", "CPU, litesort = 1", "images/s/core"):
        table.add_column(column, justify="left" if column == "pipeline" else "right")
    base = next(iter(results.values()))[0]
    for name, (cpu, wall) in results.items():
        table.add_row(name, f"{cpu:.4f}", f"{wall:.4f}", f"{cpu / base:.1f}", f"{1e3 / cpu:,.0f}")
    console = Console()
    console.print(table)
    lowest = min(cpu for name, (cpu, _) in results.items() if not name.startswith("litesort")) / base
    console.print(f"litesort takes at most {TARGET_MS} ms per image: {base <= TARGET_MS}")
    gain = results[RESIZE][0] / results[STREAMING][0]
    console.print(
        f"over the cache budget, litesort is at least as fast as torchvision v2: {gain >= 1} ({gain:.2f} times)"
    )
    console.print(
        f"other pipelines take at least {TARGET_RATIO} times as long: {lowest >= TARGET_RATIO} ({lowest:.0f} times)"
    )


if __name__ == "__main__":
    main()
