"""Data report: properties, duplicates and issues of the images of a data module, as plain data."""

from collections import defaultdict
from typing import Any

import numpy as np
from PIL import Image

from datamodules.cache.build import parallel
from datamodules.datamodule import ImageDataModule
from datamodules.images.boxes import Size, upright_size
from datamodules.quality import duplicates
from datamodules.quality.audit import audit
from datamodules.quality.embeddings import Embed
from datamodules.quality.image_issues import has_one_colour, image_issues
from datamodules.sources.base import Source


def data_report(data: ImageDataModule, progress: bool = True, embed: Embed | None = None) -> dict[str, Any]:
    """Analyse each image of a data module.

    Args:
        data: Data module after `setup`.
        progress: Show progress bars.
        embed: A frozen network that computes image features; None uses histograms.

    Returns:
        Plain data. images: one row a sample (path, label, split, width and height in px, bytes, brightness and colour
        in [0, 255], broken: reason or None, issues of a readable file). pairs: duplicates (both rows, similarity,
        whether the files are equal, found by "pixels" or "features"). classes: class names. Also the results of
        `audit.audit`.
    """
    source, small = data.source, duplicates.small_images(data.source, data.cache_config, progress)
    split_of = {int(row): name for name, rows in data.splits.items() for row in rows}
    broken = {**small.broken, **data.broken}
    sizes, lengths, digests, issues = _files(source, progress)
    brightness, colour, blank = _measure(small.array)
    images = [
        {
            "path": sample.path, "label": data.classes[data.labels[row]], "split": split_of.get(row),
            "width": sizes[row][0], "height": sizes[row][1], "bytes": lengths[row],
            "brightness": brightness[row], "colour": colour[row], "broken": broken.get(row),
            "issues": [] if row in broken else issues[row] + ["of one colour"] * blank[row],
        }
        for row, sample in enumerate(data.samples)
    ]  # fmt: skip
    pairs = _pairs(small.array, digests, broken)
    audited = audit(data, pairs, broken, embed, progress)
    return {"classes": data.classes, "images": images, "pairs": pairs, **audited}


def _files(source: Source, progress: bool) -> tuple[list[Size], list[int], list[bytes], list[list[str]]]:
    """Width and height in px (of the box, if there is one), bytes, digest and issues of each sample; 0 if unknown."""
    count = len(source.samples)
    sizes: list[Size] = [(0, 0)] * count
    lengths, digests, issues = [0] * count, [b""] * count, [list[str]() for _ in range(count)]

    def read_file(row: int) -> None:
        box = source.samples[row].box
        try:
            file = source.file(row)
            lengths[row], digests[row] = file.stat().st_size, source.digest(row)
            sizes[row] = upright_size(file) if box is None else (box[2] - box[0], box[3] - box[1])
            issues[row] = image_issues(file) if box is None else []  # issues of a file do not apply to its boxes
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return  # a broken image; the decoder reports the reason

    parallel(read_file, range(count), "Reading files", progress=progress)
    return sizes, lengths, digests, issues


def _measure(pixels: np.ndarray) -> tuple[list[float], list[float], list[bool]]:
    """Mean brightness and mean colourfulness (largest minus smallest channel), in [0, 255]; and `has_one_colour`."""
    brightness, colour, blank = np.empty(len(pixels)), np.empty(len(pixels)), np.empty(len(pixels), bool)
    for start in range(0, len(pixels), 512):
        part = pixels[start : start + 512]
        brightness[start : start + 512] = part.mean((1, 2, 3))
        red, green, blue = np.moveaxis(part, 3, 0)  # ten times as fast as reductions over the channel axis
        largest = np.maximum(np.maximum(red, green), blue)
        smallest = np.minimum(np.minimum(red, green), blue)
        colour[start : start + 512] = (largest - smallest).mean((1, 2))
        blank[start : start + 512] = has_one_colour(part)
    return brightness.round(1).tolist(), colour.round(1).tolist(), blank.tolist()


def _pairs(pixels: np.ndarray, digests: list[bytes], broken: dict[int, str]) -> list[dict[str, Any]]:
    """Duplicates: equal files, each paired with the first of them, and duplicates by pixels."""
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
