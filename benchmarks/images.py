"""Test images and interleaved measurement; shared by the benchmarks of this folder."""

import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def write_images(root: Path, count: int, classes: int = 6, size: tuple[int, int] = (512, 384)) -> Path:
    """Write JPEGs with the detail and file size of camera images (about 60 KB) into class folders; returns `root`."""
    rng = np.random.default_rng(0)
    for number in range(count):
        folder = root / f"class{number % classes}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        grain = rng.normal(0, 9, (size[1] // 2, size[0] // 2, 3)).astype(np.float32).repeat(2, 0).repeat(2, 1)
        pixels = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05d}.jpg", quality=90)
    return root


def side_by_side(jobs: dict[str, Callable[[], int]], rounds: int) -> dict[str, tuple[float, float]]:
    """Run all jobs once per round, in turn, so that other load affects all of them.

    Args:
        jobs: Name -> function that processes images and returns their number.
        rounds: Number of measured rounds, after a warm-up.

    Returns:
        Name -> median ms per image: process CPU time, wall time.
    """
    for job in jobs.values():
        job()  # warm up: files into the page cache, lazy imports
    cpu: dict[str, list[float]] = {name: [] for name in jobs}
    wall: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            gc.collect()
            start_cpu, start = time.process_time(), time.perf_counter()
            images = job()
            wall[name].append((time.perf_counter() - start) / images * 1e3)
            cpu[name].append((time.process_time() - start_cpu) / images * 1e3)
    return {name: (statistics.median(cpu[name]), statistics.median(wall[name])) for name in jobs}
