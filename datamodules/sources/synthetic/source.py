"""Six kinds of waste, drawn: real JPEG files to try everything on where no data set is at hand."""

import multiprocessing
import os
import shutil
from collections.abc import Iterator
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

PUBLISHED_COUNTS = [1168, 4826, 1020, 2655, 4879, 1092]  # of the training photos in the challenge the classes come from
FEWEST_A_CLASS = 3  # one for each split
CHUNK = 32  # photos a task


class SyntheticSource(Source):
    """Photos of metal, paper, paperpack, plastic, plastic bags and styrofoam, drawn once and kept as class folders.

    The classes are as unbalanced as in the published data set, and their colours overlap; sides are 60 to 800 px, width
    over height 0.45 to 2.3. The files lie in a folder whose name says all that they depend on.

    Args:
        num_images: photos of all classes together.
        seed: of the drawing; the photos of one seed are always the same.
        cache_dir: where the set is kept; None is litesort's cache.
        root: must be None: this source reads nothing of yours.
    """

    def __init__(
        self, num_images: int = 2000, seed: int = 0, cache_dir: str | Path | None = None, root: str | Path | None = None
    ) -> None:
        if root is not None:
            raise DataError(f"data.root={root} has no meaning for data=synthetic, which is drawn: add data=folder")
        fewest = FEWEST_A_CLASS * len(PUBLISHED_COUNTS)
        if num_images < fewest:
            raise DataError(f"data.source.num_images={num_images} is too few: give at least {fewest}")
        if seed < 0:
            raise DataError(f"data.source.seed={seed} is negative: give 0 or more")
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
        """Draw the photos that are not on disk yet: all, or, where the folder is there, none."""
        if self.root.is_dir():
            return
        try:
            self.root.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.root}.lock"):  # jobs that start together draw once
                if not self.root.is_dir():
                    self._draw()
        except OSError as error:
            raise DataError(
                f"cannot draw the synthetic set into {self.root} ({error}): name another place: data.cache_dir=FOLDER"
            ) from error

    def _draw(self) -> None:
        for leftover in self.root.parent.glob(f".{self.root.name}.*"):  # of a process that was killed: the lock is ours
            shutil.rmtree(leftover, ignore_errors=True)
        scratch = self.root.with_name(f".{self.root.name}.{os.getpid()}")
        try:
            for name in self.classes:
                (scratch / name).mkdir(parents=True, exist_ok=True)
            tasks = [(self.seed, label, number, str(scratch / path)) for label, number, path in self._numbered()]
            _render(tasks)
            scratch.rename(self.root)
        except OSError as error:
            if not self.root.is_dir():  # else another job was first, with the same photos
                raise DataError(
                    f"cannot draw the synthetic set into {self.root}: {error}: set data.cache_dir"
                ) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _numbered(self) -> Iterator[tuple[int, int, str]]:
        for sample in self.samples:
            yield sample.label, int(Path(sample.path).stem), sample.path


def class_counts(num_images: int) -> list[int]:
    """Photos a class: in the published proportions, at least 3 each, `num_images` together.

    >>> class_counts(2000)
    [149, 617, 130, 340, 624, 140]
    """
    spare = num_images - FEWEST_A_CLASS * len(PUBLISHED_COUNTS)
    shares = np.array(PUBLISHED_COUNTS) / sum(PUBLISHED_COUNTS) * num_images - FEWEST_A_CLASS
    shares = np.clip(shares, 0, None) / np.clip(shares, 0, None).sum() * spare
    counts = np.floor(shares).astype(int)
    for label in np.argsort(counts - shares, kind="stable")[: spare - counts.sum()]:
        counts[label] += 1
    return [int(count) + FEWEST_A_CLASS for count in counts]


def _render(tasks: list[tuple[int, int, int, str]]) -> None:
    """Draw and write every task, on all cores if there are many."""
    chunks = [tasks[start : start + CHUNK] for start in range(0, len(tasks), CHUNK)]
    workers = min(available_cpus(), len(chunks))
    label = f"Drawing {len(tasks)} photos"
    if workers == 1 or len(chunks) < 4:
        for chunk in track(chunks, label, transient=True):
            objects.write(chunk)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process that runs torch's threads may hang
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for _ in track(pool.map(objects.write, chunks), label, total=len(chunks), transient=True):
            pass
