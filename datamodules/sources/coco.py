"""COCO annotations: each box is a sample, cropped from its image."""

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from datamodules import images
from datamodules.images import boxes
from datamodules.quarantine import first_process
from datamodules.sources.base import Sample, Source
from datamodules.sources.coco_json import Box, CocoImage, read_coco
from datamodules.sources.folder import natural_key
from litesort.errors import DataError

log = logging.getLogger(__name__)

REST = "*"  # key of a category map for all categories that it does not name
_last = threading.local()  # the last image that this thread decoded: its other boxes usually follow


class CocoSource(Source):
    """The boxes of a COCO file, cropped from its images.

    All boxes of an image are one group, so they stay in one split. Crowd annotations are left out, since they are not
    single objects. Boxes are clipped to their image. An image is broken if it is missing or does not have the annotated
    aspect ratio; `boxes.map_to_file` handles rotated and scaled images.

    Args:
        file: COCO file.
        root: Folder that its file names are relative to; None is the folder of the file.
        categories: Category name -> class name, or None to leave its boxes out; "*" stands for all other categories.
            None makes each category a class.
        margin: Share of the width and height of a box, in [0, 10], that is added on each side.
        min_side: Boxes with a shorter side below this are left out, px, without margin, at least 1.

    Raises:
        DataError: The file is missing or not a COCO file, the map misses a category or names an unknown one, or no box
            remains.
    """

    def __init__(
        self,
        file: str | Path | None,
        root: str | Path | None = None,
        categories: Mapping[str, str | None] | None = None,
        margin: float = 0.1,
        min_side: float = 16,
    ) -> None:
        if file is None:
            raise DataError("data.file is not set: give a COCO file, e.g. data.file=annotations.json")
        self.list = Path(file).expanduser()
        if not self.list.is_file():
            raise DataError(f"data.file={file} is not a file: give a COCO file")
        self.root = Path(root).expanduser() if root is not None else self.list.parent
        if not self.root.is_dir():
            raise DataError(f"data.root={root} is not a folder: give the folder that the file names are relative to")
        if not 0 <= margin <= 10:
            raise DataError(
                f"data.source.margin={margin} is invalid: expected a number from 0 to 10, as a share of the box"
            )
        if not min_side >= 1:
            raise DataError(f"data.source.min_side={min_side} is invalid: expected a number of at least 1, in px")
        names, recorded, found = read_coco(self.list)
        classes = _class_map(self.list, names, categories)
        kept, self.left_out = _select(found, classes, min_side)
        if not kept:
            raise DataError(f"data.file={file}: no box remains ({_listed(self.left_out)}): check data.source")
        self.classes = sorted({name for name, _ in kept}, key=natural_key)
        self._images = {image.name: image for image in recorded}
        self._smallest = _smallest_sides([box for _, box in kept], margin)
        place = {image.name: number for number, image in enumerate(recorded)}
        labels = {name: label for label, name in enumerate(self.classes)}
        self._logged = False
        self.samples = [
            _sample(box, labels[name], margin) for name, box in sorted(kept, key=lambda item: place[item[1].image.name])
        ]

    def prepare(self) -> None:
        """Log once how many crops there are and how many boxes are left out."""
        if first_process() and not self._logged:
            self._logged = True
            left_out = f"; left out: {_listed(self.left_out)}" if any(self.left_out.values()) else ""
            count = len({sample.group for sample in self.samples})
            log.info("data: %d crops of %d images%s", len(self.samples), count, left_out)

    def image(self, index: int) -> CocoImage:
        """Return the entry of the COCO file for the image of sample `index`."""
        return self._images[self.samples[index].group or ""]

    def file(self, index: int) -> Path:
        return self.root / self.image(index).name

    def read(self, index: int, min_side: int | None = None) -> np.ndarray:
        """Crop one box. Boxes of one image that a thread reads in a row are decoded once."""
        box, image = self.samples[index].box, self.image(index)
        assert box is not None
        recorded = image.width, image.height
        if min_side is not None:  # the smallest box determines the scale, so that one decoding serves all boxes
            min_side = -(-min_side * min(recorded) // self._smallest[image.name])
        data = images.read_bytes(self.file(index))
        whole, orientation = _decode(data, min_side)
        left, top, right, bottom = boxes.map_to_file(box, recorded, (whole.shape[1], whole.shape[0]), orientation)
        return np.ascontiguousarray(whole[top:bottom, left:right])


def _decode(data: bytes, min_side: int | None) -> tuple[np.ndarray, int]:
    """Decode an image, unless this thread has just decoded the same bytes."""
    if getattr(_last, "key", None) != (data, min_side):
        _last.key = None  # free the last image before decoding the next
        _last.image = images.read_image(data, min_side=min_side), boxes.orientation(data)
        _last.key = data, min_side
    return _last.image


def _class_map(file: Path, names: list[str], categories: Mapping[str, str | None] | None) -> dict[str, str | None]:
    """Return category name -> class name or None."""
    if categories is None:
        return {name: name for name in names}
    unknown = [name for name in categories if name not in names and name != REST]
    if unknown:
        raise DataError(
            f"data.source.categories names {unknown[0]!r:.80}, which is not a category of {file}: correct the name"
        )
    missing = [name for name in names if name not in categories]
    if missing and REST not in categories:
        raise DataError(f"data.source.categories does not name {missing[0]!r:.80}: give it a class or null, or add '*'")
    return {name: categories[name if name in categories else REST] for name in names}


def _select(
    found: list[Box], classes: Mapping[str, str | None], min_side: float
) -> tuple[list[tuple[str, Box]], Counter[str]]:
    """Return the boxes that become samples with their class, and the number of boxes left out for each reason."""
    kept, left_out = [], Counter[str]()
    for box in found:
        left, top, right, bottom = box.edges
        name = classes[box.category]
        if name is None:
            left_out["of no class"] += 1
        elif box.crowd:
            left_out["crowds"] += 1
        elif min(right - left, bottom - top) < min_side:
            left_out[f"smaller than {min_side:g} px"] += 1
        else:
            kept.append((name, box))
    return kept, left_out


def _listed(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "there are none"


def _smallest_sides(kept: list[Box], margin: float) -> dict[str, int]:
    """Return image name -> shortest side of its boxes with margin, px."""
    smallest: dict[str, int] = {}
    for box in kept:
        left, top, right, bottom = boxes.add_margin(box.edges, margin, (box.image.width, box.image.height))
        side = min(right - left, bottom - top)
        smallest[box.image.name] = min(side, smallest.get(box.image.name, side))
    return smallest


def _sample(box: Box, label: int, margin: float) -> Sample:
    image = box.image
    frame = image.width, image.height
    return Sample(
        f"{image.name}#{box.id}", label, group=image.name, box=boxes.add_margin(box.edges, margin, frame), frame=frame
    )
