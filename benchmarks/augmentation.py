"""Throughput of augmentation: litesort, timm, torchvision, kornia and albumentations, measured in turn.

    python benchmarks/augmentation.py --batch 64 --size 224
    python benchmarks/augmentation.py --batch 32 --size 128
    python benchmarks/augmentation.py --batch 256 --size 224 --device cuda

All take decoded, resized uint8 pixels and return a (B, 3, S, S) float32 batch in [0, 1] on the device. timm and
albumentations process one image after the other, on the CPU. timm applies each of its two operations with probability
0.5, so it does half as much as the others; in the row "both applied" it applies both. kornia draws once for the batch.
albumentations has no RandAugment, so two operations are drawn with its OneOf. Its rows need the package.

With `--device cuda`, the last row is a training step of resnet18d at this size and batch in 16-mixed, for comparison.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable

import kornia.augmentation as kornia
import numpy as np
import torch
from kornia.augmentation.auto import RandAugment as KorniaRandAugment
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from timm.data.auto_augment import rand_augment_transform
from torch.nn import functional
from torchvision.transforms import v2

from datamodules.augment import Augment, RandAugment, RandomErasing, RandomHorizontalFlip, RandomResizedCrop
from datamodules.augment.contact_sheet import example_images
from litesort.keyed_random import splitmix64

Run = Callable[[int], torch.Tensor]
CROP = (0.35, 1.0)


def litesort(images: np.ndarray, device: torch.device, augment: Augment) -> Run:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(device)

    def run(step: int) -> torch.Tensor:
        keys = splitmix64(np.arange(step * len(images), (step + 1) * len(images), dtype=np.uint64))
        draws = augment.draw(keys, images.shape[1])
        return augment(pixels, draws if device.type == "cpu" else moved(draws, device))

    return run


def moved(draws: object, device: torch.device) -> object:
    from lightning_fabric.utilities import move_data_to_device

    return move_data_to_device(draws, device)


def on_pil(images: np.ndarray, device: torch.device, transform: Callable[[Image.Image], Image.Image]) -> Run:
    pil_images = [Image.fromarray(image) for image in images]
    return lambda step: _stack([np.asarray(transform(image)) for image in pil_images]).to(device)


def on_arrays(images: np.ndarray, device: torch.device, transform: Callable[..., dict[str, np.ndarray]]) -> Run:
    return lambda step: _stack([transform(image=image)["image"] for image in images]).to(device)


def torchvision_v2(images: np.ndarray, device: torch.device, transform: torch.nn.Module) -> Run:
    pixels = list(torch.from_numpy(images).permute(0, 3, 1, 2).to(device))
    return lambda step: torch.stack([transform(image) for image in pixels]).float().div_(255)


def kornia_batch(images: np.ndarray, device: torch.device, *modules: torch.nn.Module) -> Run:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(device)
    sequence = kornia.AugmentationSequential(*modules)
    return lambda step: sequence(pixels.float().div_(255))


def _stack(images: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div_(255)


def policies(images: np.ndarray, device: torch.device) -> dict[str, dict[str, Run]]:
    """Policy -> name -> function that augments a batch; litesort is the first."""
    size = images.shape[1]
    flip, erase = RandomHorizontalFlip(p=0.5), RandomErasing(p=0.5)
    mean = {"img_mean": (128, 128, 128)}
    bilinear = v2.InterpolationMode.BILINEAR
    kornia_flip, kornia_erase = kornia.RandomHorizontalFlip(p=0.5), kornia.RandomErasing((0.02, 0.2), value=0.5, p=0.5)
    kornia_crop = kornia.RandomResizedCrop((size, size), CROP, p=1.0, cropping_mode="resample")
    randaugment = {
        "litesort": litesort(images, device, Augment({"ops": RandAugment()})),
        "timm rand-m9-inc1": on_pil(images, device, rand_augment_transform("rand-m9-inc1", mean)),
        "timm, both applied": on_pil(images, device, rand_augment_transform("rand-m9-inc1-p1.0", mean)),
        "torchvision v2": torchvision_v2(images, device, v2.RandAugment(2, 14, interpolation=bilinear, fill=128)),
        "kornia": kornia_batch(images, device, KorniaRandAugment(2, 14)),
    }
    with_flip_and_erasing = {
        "litesort": litesort(images, device, Augment({"ops": RandAugment(), "flip": flip, "erase": erase})),
        "kornia": kornia_batch(images, device, KorniaRandAugment(2, 14), kornia_flip, kornia_erase),
    }
    crops = {
        "litesort": litesort(images, device, Augment({"crop": RandomResizedCrop(CROP, p=0.5), "flip": flip})),
        "litesort, every image cropped": litesort(
            images, device, Augment({"crop": RandomResizedCrop(CROP), "flip": flip})
        ),
        "kornia": kornia_batch(images, device, kornia_crop, kornia_flip),
        "torchvision v2": torchvision_v2(
            images, device, v2.Compose([v2.RandomResizedCrop(size, CROP, antialias=False), v2.RandomHorizontalFlip()])
        ),
    }
    if importlib.util.find_spec("albumentations"):
        randaugment["albumentations"] = on_arrays(images, device, albumentations_two(14))
        crops["albumentations"] = on_arrays(images, device, albumentations_crop(size))
    return {
        "RandAugment, two operations": randaugment,
        "RandAugment, flip, erased box": with_flip_and_erasing,
        "crop and flip": crops,
    }


def albumentations_two(level: float) -> Callable[..., dict[str, np.ndarray]]:
    """Two of the 14 operations, drawn with replacement, at one level of 30."""
    import albumentations as a

    share = level / 30
    low, high, tangent = 1 - 0.9 * share, 1 + 0.9 * share, float(np.degrees(np.arctan(0.3 * share)))
    unchanged: dict[str, float] = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
    always = {"p": 1.0, "fill": 128}
    shift = 150 / 331 * share
    operations = [
        a.NoOp(p=1.0),
        a.AutoContrast(p=1.0),
        a.Equalize(p=1.0),
        a.Rotate((-30 * share, 30 * share), **always),
        a.Solarize((1 - share, 1 - share), p=1.0),
        a.ColorJitter(**unchanged | {"saturation": (low, high)}, p=1.0),
        a.Posterize(round(8 - 4 * share), p=1.0),
        a.ColorJitter(**unchanged | {"contrast": (low, high)}, p=1.0),
        a.ColorJitter(**unchanged | {"brightness": (low, high)}, p=1.0),
        a.Sharpen(p=1.0),
        a.Affine(shear={"x": (-tangent, tangent)}, **always),
        a.Affine(shear={"y": (-tangent, tangent)}, **always),
        a.Affine(translate_percent={"x": (-shift, shift)}, **always),
        a.Affine(translate_percent={"y": (-shift, shift)}, **always),
    ]
    transform: Callable[..., dict[str, np.ndarray]] = a.Compose(
        [a.OneOf(operations, p=1.0), a.OneOf(operations, p=1.0)]
    )
    return transform


def albumentations_crop(size: int) -> Callable[..., dict[str, np.ndarray]]:
    import albumentations as a

    transform: Callable[..., dict[str, np.ndarray]] = a.Compose(
        [a.RandomResizedCrop((size, size), CROP), a.HorizontalFlip(p=0.5)]
    )
    return transform


def training_step(images: np.ndarray, device: torch.device) -> Run:
    import timm

    network = timm.create_model("resnet18d", num_classes=6).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    batch = _stack(list(images)).to(device).contiguous(memory_format=torch.channels_last)
    targets = torch.zeros(len(images), dtype=torch.int64, device=device)

    def run(step: int) -> torch.Tensor:
        with torch.autocast(device.type, dtype=torch.float16):
            loss = functional.cross_entropy(network(batch), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return run


def measure(runs: dict[str, Run], repeats: int, device: torch.device) -> dict[str, tuple[float, float]]:
    """Run all functions in turn; returns the median CPU and wall seconds of each."""
    clocks: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for step in track(range(repeats + 2), "measuring"):
        for name, run in runs.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run(step)
            if device.type == "cuda":
                torch.cuda.synchronize()
            clocks[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    columns = {name: list(zip(*seen[2:], strict=True)) for name, seen in clocks.items()}
    return {name: (statistics.median(cpu), statistics.median(wall)) for name, (cpu, wall) in columns.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    images = example_images(options.batch, options.size)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{options.threads} thread(s)"
    for policy, runs in policies(images, device).items():
        if device.type == "cuda":
            runs["training step of resnet18d, 16-mixed"] = training_step(images, device)
        table = Table(title=f"{policy}: {options.batch} x {options.size} px, {where}, median of {options.repeats}")
        for column in ("", "images/CPU s", "images/s (wall)", "ms/batch", "time, litesort = 1"):
            table.add_column(column, justify="right" if column else "left")
        medians = measure(runs, options.repeats, device)
        for name, (cpu, wall) in medians.items():
            ratio = wall / medians["litesort"][1]
            rates = (f"{options.batch / cpu:.0f}", f"{options.batch / wall:.0f}", f"{1e3 * wall:.2f}", f"{ratio:.2f}")
            table.add_row(name, *rates)
        Console(width=110).print(table)


if __name__ == "__main__":
    main()
