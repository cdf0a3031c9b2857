"""Images for the tests of the pixel cache."""

from pathlib import Path

import numpy as np
from PIL import Image

from datamodules import images
from datamodules.sources.base import Sample, Source

SIZE = 12


class CountedImages(Source):
    """Source of a folder that records the rows it reads and hashes."""

    def __init__(self, root: Path) -> None:
        self.root, self.classes = root, ["a"]
        self.samples = [Sample(path.name, 0) for path in sorted(root.iterdir())]
        self.reads: list[int] = []
        self.digests: list[int] = []

    def read(self, index: int, min_side: int | None = None) -> np.ndarray:
        self.reads.append(index)
        return super().read(index, min_side)

    def digest(self, index: int) -> bytes:
        self.digests.append(index)
        return super().digest(index)


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (20, 30)) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def expected(source: CountedImages, policy: str = "pad", size: int = SIZE) -> np.ndarray:
    return np.stack([images.load(source.file(i), size, policy) for i in range(len(source.samples))])
