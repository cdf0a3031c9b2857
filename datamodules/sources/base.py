"""What a kind of data must offer: names of classes, a list of samples, and the pixels of one of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from datamodules import images

Split = Literal["train", "val", "test"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled photo, or one box of a photo.

    Attributes:
        path: unique name, relative to the source's root, with forward slashes; what reports show and `group_by` reads.
        label: position in the source's `classes`.
        split: the side that the source itself puts it on, or None where that is left to the data module.
        group: samples of one group (frames of one clip, boxes of one photo) never straddle a split.
        box: left, top, right, bottom in pixels of the upright photo; None for the whole photo.
        frame: width and height of the photo that the box was drawn on, where the one on disk may be turned or scaled.
    """

    path: str
    label: int
    split: Split | None = None
    group: str | None = None
    box: tuple[int, int, int, int] | None = None
    frame: tuple[int, int] | None = None


class Source:
    """A list of labelled photos on disk.

    A new kind of data is a subclass that fills `root`, `classes` and `samples`; files that do not lie at `root / path`
    need their own `file`. Building one must be cheap and touch no pixel: every rank and every sweep job does it.

    Attributes:
        root: folder that the paths of the samples start from.
        classes: names in label order.
        samples: in an order that depends on the data alone.
    """

    root: Path
    classes: list[str]
    samples: list[Sample]

    def prepare(self) -> None:
        """Make sure the photos are on disk (draw, download) before any `read`; at once where they are."""

    def file(self, index: int) -> Path:
        """The photo file of sample `index`."""
        return self.root / self.samples[index].path

    def read(self, index: int, min_side: int | None = None) -> np.ndarray:
        """Pixels of sample `index`: (H, W, 3) uint8, RGB, upright, cropped to its box.

        Args:
            index: position in `samples`.
            min_side: what `images.read_image` makes of it: how far a decoder may shrink the photo while it decodes.

        Raises:
            images.BrokenImage: the file cannot be read as a picture; `.reason` says why.
        """
        return images.read_image(self.file(index), min_side=min_side, box=self.samples[index].box)

    def digest(self, index: int) -> bytes:
        """16 bytes that stand for the content of sample `index`: pixels cached under another value are decoded again.

        Raises:
            OSError: the file cannot be opened.
        """
        return images.content_digest(self.file(index), self.samples[index].box)
