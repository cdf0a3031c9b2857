"""What is known of a set of photos before anything is learned from it, as plain data for a report."""

from collections import defaultdict
from typing import Any

import numpy as np
from PIL import Image

from datamodules.cache.build import parallel
from datamodules.datamodule import ImageDataModule
from datamodules.images.boxes import Size, header
from datamodules.quality import duplicates
from datamodules.quality.audit import audit
from datamodules.quality.embeddings import Embed
from datamodules.quality.image_issues import image_issues, plain
from datamodules.sources.base import Source


def data_report(data: ImageDataModule, progress: bool = True, embed: Embed | None = None) -> dict[str, Any]:
    """Look at every photo of a data module that was set up.

    Returns plain data: `photos` holds one row a sample (path, label, split, width and height in px, bytes, brightness
    and colour in levels, broken: the reason or None, odd: what is unusual about a file that is not broken); `pairs` the
    duplicates, each with the rows of both, their similarity, whether the files are equal, and what they were found by
    ("pixels" or "features"); `classes` the names; and what `audit.audit` says. embed: a frozen network that
    describes photos; None describes them by hand.
    """
    source, small = data.source, duplicates.small_images(data.source, data.cache_dir, data.cache_budget_gb, progress)
    side = {int(row): name for name, rows in data.splits.items() for row in rows}
    broken = {**small.broken, **data.broken}
    sizes, lengths, digests, odd = _files(source, progress)
    light, colour, blank = _looks(small.array)
    photos = [
        {
            "path": sample.path, "label": data.classes[data.labels[row]], "split": side.get(row),
            "width": sizes[row][0], "height": sizes[row][1], "bytes": lengths[row],
            "brightness": light[row], "colour": colour[row], "broken": broken.get(row),
            "odd": [] if row in broken else odd[row] + ["of one colour"] * blank[row],
        }
        for row, sample in enumerate(data.samples)
    ]  # fmt: skip
    pairs = _pairs(small.array, digests, broken)
    audited = audit(data, pairs, broken, embed, progress)
    return {"classes": data.classes, "photos": photos, "pairs": pairs, **audited}


def _files(source: Source, progress: bool) -> tuple[list[Size], list[int], list[bytes], list[list[str]]]:
    """Width and height in px (of the box, where there is one), bytes, digest and issues a sample; 0 where unknown."""
    count = len(source.samples)
    sizes: list[Size] = [(0, 0)] * count
    lengths, digests, odd = [0] * count, [b""] * count, [list[str]() for _ in range(count)]

    def look(row: int) -> None:
        box = source.samples[row].box
        try:
            file = source.file(row)
            lengths[row], digests[row] = file.stat().st_size, source.digest(row)
            sizes[row] = header(file) if box is None else (box[2] - box[0], box[3] - box[1])
            odd[row] = image_issues(file) if box is None else []  # of a box it is the photo's own affair
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return  # broken: the decoder says why

    parallel(look, range(count), "Looking at files", progress=progress)
    return sizes, lengths, digests, odd


def _looks(pixels: np.ndarray) -> tuple[list[float], list[float], list[bool]]:
    """Mean brightness and mean colourfulness (largest less smallest channel), 0 to 255; whether of one colour."""
    light, colour, blank = np.empty(len(pixels)), np.empty(len(pixels)), np.empty(len(pixels), bool)
    for start in range(0, len(pixels), 512):
        part = pixels[start : start + 512]
        light[start : start + 512] = part.mean((1, 2, 3))
        colour[start : start + 512] = (part.max(3) - part.min(3)).mean((1, 2))
        blank[start : start + 512] = plain(part)
    return light.round(1).tolist(), colour.round(1).tolist(), blank.tolist()


def _pairs(pixels: np.ndarray, digests: list[bytes], broken: dict[int, str]) -> list[dict[str, Any]]:
    """Duplicates: files of equal content, each with the first of its kind, and photos that show the same."""
    same: dict[bytes, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        if digest and row not in broken:
            same[digest].append(row)
    pairs = {(rows[0], row): (1.0, True) for rows in same.values() for row in rows[1:]}
    for one, other, similarity in zip(
        *(part.tolist() for part in duplicates.similar_pairs(pixels, skip=broken)), strict=True
    ):
        equal = bool(digests[one]) and digests[one] == digests[other]
        pairs.setdefault((one, other), (round(similarity, 3), equal))
    return [
        {"rows": list(rows), "similarity": value[0], "equal": value[1], "by": "pixels"}
        for rows, value in sorted(pairs.items())
    ]
