"""Augmentation on a CPU, two of 14 operations per image: litesort beside timm, torchvision and kornia, interleaved.

    python benchmarks/augmentation.py --batch 64 --size 224 --repeats 15

timm works on PIL images and applies each of its two operations with probability 0.5, half as many as the others; the
row "both applied" makes it do as much. All start from decoded, resized uint8 pixels and end with a (B, 3, S, S)
float32 batch in [0, 1].
"""

import argparse
import statistics
import time
from collections.abc import Callable

import kornia.enhance
import kornia.geometry.transform
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from timm.data.auto_augment import rand_augment_transform
from torchvision.transforms import v2

from datamodules.augment.contact_sheet import example_images
from datamodules.augment.pipeline import OPERATIONS, Augment
from litesort.keyed_random import splitmix64

Run = Callable[[int], torch.Tensor]


def litesort(photos: np.ndarray) -> Run:
    augment = Augment(hflip=0.0)
    images = torch.from_numpy(photos).permute(0, 3, 1, 2)

    def run(step: int) -> torch.Tensor:
        keys = splitmix64(np.arange(step * len(photos), (step + 1) * len(photos), dtype=np.uint64))
        return augment(images, augment.draw(keys))

    return run


def timm_on_pil(photos: np.ndarray, policy: str) -> Run:
    transform = rand_augment_transform(policy, {"img_mean": (128, 128, 128)})
    files = [Image.fromarray(photo) for photo in photos]
    return lambda step: _stack([np.asarray(transform(file)) for file in files])


def torchvision_v2(photos: np.ndarray) -> Run:
    transform = v2.RandAugment(num_ops=2, magnitude=14, interpolation=v2.InterpolationMode.BILINEAR, fill=128)
    images = list(torch.from_numpy(photos).permute(0, 3, 1, 2))

    def run(step: int) -> torch.Tensor:
        return torch.stack([transform(image) for image in images]).float().div_(255)

    return run


def _stack(photos: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).float().div_(255)


def kornia_grouped(photos: np.ndarray) -> Run:
    """Call kornia's own functions on the samples that drew them, once a group."""
    images = torch.from_numpy(photos).permute(0, 3, 1, 2)
    draws = np.random.default_rng(0)

    def run(step: int) -> torch.Tensor:
        batch = images.float().div_(255)
        for _ in range(2):
            codes = draws.integers(len(OPERATIONS), size=len(batch))
            for code, name in enumerate(OPERATIONS):
                rows = np.flatnonzero(codes == code)
                if len(rows) and name != "Identity":
                    signs = torch.from_numpy(np.where(draws.random(len(rows)) < 0.5, -1.0, 1.0)).float()
                    chosen = torch.from_numpy(rows)
                    batch[chosen] = _kornia(name, batch[chosen], signs * 14 / 30)
        return batch

    return run


def _kornia(name: str, images: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
    enhance, geometry = kornia.enhance, kornia.geometry.transform
    size, zeros = images.shape[-1], torch.zeros_like(strengths)
    factors = 1 + 0.9 * strengths
    pairs = {"TranslateX": (strengths, zeros), "TranslateY": (zeros, strengths)}
    shears = {"ShearX": (strengths, zeros), "ShearY": (zeros, strengths)}
    if name == "AutoContrast":
        return enhance.normalize_min_max(images)
    if name == "Equalize":
        return enhance.equalize(images)
    if name == "Solarize":
        return enhance.solarize(images, 1 - strengths.abs())
    if name == "Posterize":
        return enhance.posterize(images, (8 - 4 * strengths.abs()).round().int())
    if name == "Color":
        return enhance.adjust_saturation(images, factors)
    if name == "Contrast":
        return enhance.adjust_contrast_with_mean_subtraction(images, factors)
    if name == "Brightness":
        return enhance.adjust_brightness_accumulative(images, factors)
    if name == "Sharpness":
        return enhance.sharpness(images, factors)
    if name == "Rotate":
        return geometry.rotate(images, 30 * strengths, align_corners=False)
    if name in shears:
        return geometry.shear(images, 0.3 * torch.stack(shears[name], dim=1), align_corners=False)
    return geometry.translate(images, size * 150 / 331 * torch.stack(pairs[name], dim=1), align_corners=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    photos = example_images(options.batch, options.size)
    runs = {
        "litesort": litesort(photos),
        "timm rand-m9-inc1": timm_on_pil(photos, "rand-m9-inc1"),
        "timm, both applied": timm_on_pil(photos, "rand-m9-inc1-p1.0"),
        "torchvision v2": torchvision_v2(photos),
        "kornia, grouped": kornia_grouped(photos),
    }
    clocks: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for step in track(range(options.repeats + 2), "measuring"):
        for name, run in runs.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run(step)
            clocks[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    table = Table(
        title=f"{options.batch} x {options.size} px, {options.threads} thread(s), median of {options.repeats}"
    )
    for column in ("", "images / CPU second", "images / s (wall)", "litesort is faster by"):
        table.add_column(column, justify="right" if column else "left")
    medians = {name: [statistics.median(each) for each in zip(*seen[2:], strict=True)] for name, seen in clocks.items()}
    for name, (cpu, wall) in medians.items():
        ratio = cpu / medians["litesort"][0]
        table.add_row(name, f"{options.batch / cpu:.0f}", f"{options.batch / wall:.0f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
