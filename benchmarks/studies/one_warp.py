"""Effect of merging neighbouring geometric operations into one warp, on pixels and on trained networks.

    python benchmarks/studies/one_warp.py                        # pixels
    python benchmarks/studies/one_warp.py --seeds 0 1 2          # also two trainings per seed, on generated images

Two of 14 operations are drawn per image, as in `augment=randaugment`. "One at a time" fills and resamples after each
operation, as Pillow does; one warp resamples once and fills at the end.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from datamodules.augment import draw_plan
from datamodules.augment.contact_sheet import example_images
from datamodules.augment.pipeline import Augment
from datamodules.augment.randaugment import RandAugment
from datamodules.augment.slots import KINDS, WARP
from litesort.cli.compose import CONF
from litesort.keyed_random import splitmix64

sys.path.insert(0, str(Path(__file__).parents[2]))  # train.py is not in an installed package
from train import train


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Run each warp as a separate pass."""
    merged = draw_plan.SEPARATE
    draw_plan.SEPARATE = np.where(np.array(KINDS) == WARP, True, merged)
    try:
        yield
    finally:
        draw_plan.SEPARATE = merged


def pixels(count: int, size: int) -> None:
    """Print how many images differ, and by how much."""
    augment = Augment({"ops": RandAugment()})
    images = torch.from_numpy(example_images(count, size)).permute(0, 3, 1, 2)
    keys = splitmix64(np.arange(count, dtype=np.uint64))
    merged = augment(images, augment.draw(keys, size))
    with one_at_a_time():
        separate = augment(images, augment.draw(keys, size))
    difference = 255 * (merged - separate).abs().amax(1)  # (B, S, S), the channel that differs most
    differs = difference.mean((1, 2)) > 0.01
    mean, far = difference[differs].mean(), (difference[differs] > 16).float().mean()
    print(f"{count} images of {size} px: {differs.float().mean():.1%} differ;")
    print(f"pixels of these images differ by {mean:.1f} of 255 on average, {far:.1%} of them by more than 16")


def trained(seed: int, epochs: int, folder: Path) -> float:
    """Train a resnet18d; returns its macro F1 on the synthetic test images."""
    overrides = [
        "augment=randaugment", f"seed={seed}", f"epochs={epochs}", f"run_dir={folder}", "logger=none", "name=one_warp",
        "latency.settings.seconds=0", "latency.settings.min_rounds=1", "latency.end_to_end=false", "mistakes=0",
    ]  # fmt: skip
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return train(compose("train", overrides))["test/f1_macro"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="seeds of trainings, two trainings per seed")
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    pixels(options.images, options.size)
    results: dict[str, list[float]] = {"one warp": [], "one at a time": []}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in options.seeds:
            for name, warps in (("one warp", contextlib.nullcontext()), ("one at a time", one_at_a_time())):
                with warps:
                    results[name].append(trained(seed, options.epochs, Path(scratch) / f"{seed}-{name[4:8].strip()}"))
    for name, values in results.items():
        if values:
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            print(f"{name}: macro F1 {statistics.mean(values):.3f}{spread} ({', '.join(f'{v:.3f}' for v in values)})")


if __name__ == "__main__":
    main()
