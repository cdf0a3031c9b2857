"""SyntheticSource: six classes of waste drawn as JPEG files, for a first run without a data set."""

import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from filelock import FileLock
from rich.progress import track

from datamodules.cache import default_cache_dir
from datamodules.sources.base import Sample, Source
from datamodules.sources.synthetic import objects
from litesort.errors import DataError
from litesort.system import available_cpus

PUBLISHED_COUNTS = [1168, 4826, 1020, 2655, 4879, 1092]  # training images in the challenge that defines the classes
MIN_PER_CLASS = 3  # one for each split
CHUNK = 32  # images per task of a worker process


class SyntheticSource(Source):
    """Synthetic images of metal, paper, paperpack, plastic, plastic bags and styrofoam, drawn once into class folders.

    The class proportions are those of the published data set, and the colours of the classes overlap. Each side has 60
    to 800 px; width / height is 0.45 to 2.3. The name of the folder contains all settings.

    Args:
        num_images: Number of images of all classes, at least 18.
        seed: Seed of the images, at least 0. The same seed gives the same images.
        cache_dir: Folder of the set; None is the default cache folder.
        root: Must be None, since this source reads no folder.

    Raises:
        DataError: A setting is invalid, or the folder cannot be written.
    """

    def __init__(
        self, num_images: int = 2000, seed: int = 0, cache_dir: str | Path | None = None, root: str | Path | None = None
    ) -> None:
        if root is not None:
            raise DataError(f"data.root={root} is not used by data=synthetic: add data=folder")
        minimum = MIN_PER_CLASS * len(PUBLISHED_COUNTS)
        if num_images < minimum:
            raise DataError(
                f"data.source.num_images={num_images} is invalid: expected an integer of at least {minimum}"
            )
        if seed < 0:
            raise DataError(f"data.source.seed={seed} is invalid: expected an integer of at least 0")
        self.seed = seed
        self.classes = list(objects.CLASSES)
        parent = Path(cache_dir).expanduser() if cache_dir is not None else default_cache_dir()
        self.root = parent / "synthetic" / f"v{objects.VERSION}-n{num_images}-s{seed}"
        self.samples = [
            Sample(f"{self.classes[label]}/{number:05d}.jpg", label)
            for label, count in enumerate(class_counts(num_images))
            for number in range(1, count + 1)
        ]

    def prepare(self) -> None:
        """Draw the images if their folder does not exist."""
        if self.root.is_dir():
            return
        try:
            self.root.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.root}.lock"):  # concurrent jobs draw once
                if not self.root.is_dir():
                    self._draw()
        except OSError as error:
            raise DataError(
                f"cannot draw the synthetic set into {self.root} ({error}): set data.cache_dir=FOLDER to another folder"
            ) from error

    def _draw(self) -> None:
        # left by killed processes: this process holds the lock, so no other process draws
        for leftover in self.root.parent.glob(f".{self.root.name}.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        scratch = self.root.with_name(f".{self.root.name}.{os.getpid()}")
        try:
            for name in self.classes:
                (scratch / name).mkdir(parents=True, exist_ok=True)
            _render([(self.seed, s.label, int(Path(s.path).stem), str(scratch / s.path)) for s in self.samples])
            scratch.rename(self.root)
        except OSError:
            if not self.root.is_dir():  # otherwise another job has drawn the same images
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def class_counts(num_images: int) -> list[int]:
    """Images of each class in the published proportions, at least 3 each, `num_images` in total.

    >>> sum(class_counts(1400)), min(class_counts(18))
    (1400, 3)
    """
    spare = num_images - MIN_PER_CLASS * len(PUBLISHED_COUNTS)
    shares = np.array(PUBLISHED_COUNTS) / sum(PUBLISHED_COUNTS) * num_images - MIN_PER_CLASS
    shares = np.clip(shares, 0, None) / np.clip(shares, 0, None).sum() * spare
    counts = np.floor(shares).astype(int)
    for label in np.argsort(counts - shares, kind="stable")[: spare - counts.sum()]:
        counts[label] += 1
    return [int(count) + MIN_PER_CLASS for count in counts]


def _render(tasks: list[tuple[int, int, int, str]]) -> None:
    """Draw and write all tasks, on all cores if there are many."""
    chunks = [tasks[start : start + CHUNK] for start in range(0, len(tasks), CHUNK)]
    workers = min(available_cpus(), len(chunks))
    label = f"Drawing {len(tasks)} images"
    if workers == 1 or len(chunks) < 4:
        for chunk in track(chunks, label, transient=True):
            objects.write(chunk)
        return
    context = multiprocessing.get_context("spawn")  # forking a process with torch threads may hang
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for _ in track(pool.map(objects.write, chunks), label, total=len(chunks), transient=True):
            pass
