"""Source: class names, a list of samples, and the pixels of each sample."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from datamodules import images

Split = Literal["train", "val", "test"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image, or one box of an image.

    Attributes:
        path: Unique name relative to the source's root, with forward slashes. Reports show it, and `group_by` matches
            it.
        label: Index into the source's `classes`.
        split: Split that the source defines, or None.
        group: Samples of one group stay in one split (frames of a clip, boxes of an image).
        box: Left, top, right, bottom in px of the upright image; None for the whole image.
        frame: Width and height of the annotated image, if the file on disk may be rotated or scaled.
    """

    path: str
    label: int
    split: Split | None = None
    group: str | None = None
    box: tuple[int, int, int, int] | None = None
    frame: tuple[int, int] | None = None


class Source:
    """Base class: a list of labelled images on disk.

    A subclass fills `root`, `classes` and `samples`. It overrides `file` if the files are not at `root / path`. The
    constructor must be fast and read no pixels, since each rank and each sweep job calls it.

    Attributes:
        root: Folder that the paths of the samples are relative to.
        classes: Class names in label order.
        samples: Samples in an order that depends only on the data.
    """

    root: Path
    classes: list[str]
    samples: list[Sample]

    def prepare(self) -> None:
        """Create or download missing images. Called before `read`; returns at once if all images exist."""

    def file(self, index: int) -> Path:
        """Return the image file of sample `index`."""
        return self.root / self.samples[index].path

    def read(self, index: int, min_side: int | None = None) -> np.ndarray:
        """Return the pixels of sample `index`: (H, W, 3) uint8, RGB, upright, cropped to its box.

        Args:
            index: Index into `samples`.
            min_side: Target size, px: a decoder may reduce the image while decoding. See `images.read_image`.

        Raises:
            images.BrokenImage: The file cannot be read as an image; `.reason` is one line.
        """
        return images.read_image(self.file(index), min_side=min_side, box=self.samples[index].box)

    def digest(self, index: int) -> bytes:
        """Return 16 bytes that identify the content of sample `index`. The cache decodes an image again if they change.

        Raises:
            OSError: The file cannot be opened.
        """
        return images.content_digest(self.file(index), self.samples[index].box)
