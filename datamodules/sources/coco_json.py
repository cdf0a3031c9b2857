"""Parse and check a COCO file. Errors are one line and name the entry."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from litesort.errors import DataError

MAX_PX = 1e7  # largest valid coordinate
UNSAFE = re.compile(r"^[A-Za-z]:|[\x00-\x1f\x7f\ud800-\udfff]")  # a drive, control characters, half of a surrogate pair
Id = int | str

REQUIRED: dict[str, dict[str, tuple[type, ...]]] = {  # list -> key of its entries -> types
    "categories": {"id": (int, str), "name": (str,)},
    "images": {"id": (int, str), "file_name": (str,), "width": (int, float), "height": (int, float)},
    "annotations": {"id": (int, str), "image_id": (int, str), "category_id": (int, str), "bbox": (list,)},
}


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An entry of `images`: name relative to the root, width and height in px, URLs by key."""

    name: str
    width: int
    height: int
    urls: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Box:
    """An annotated object: left, top, right, bottom in px of the annotated image, clipped to it."""

    id: Id
    image: CocoImage
    category: str
    edges: tuple[float, float, float, float]
    crowd: bool


def read_coco(file: Path) -> tuple[list[str], list[CocoImage], list[Box]]:
    """Return category names, images and boxes in the order of the file, including boxes without area.

    Raises:
        DataError: The file is missing, is not a COCO file, or contains an invalid entry. The message names the entry.
    """
    try:
        content = json.loads(file.read_bytes(), object_hook=_drop_segmentation)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as JSON ({error!s:.150}): give a COCO file of boxes") from error
    categories = {record["id"]: record["name"] for _, record in _records(file, content, "categories")}
    images = {record["id"]: _image(where, record) for where, record in _records(file, content, "images")}
    if len({image.name for image in images.values()}) < len(images):
        name, count = Counter(image.name for image in images.values()).most_common(1)[0]
        raise DataError(f"{file}: {count} images have the file_name {name:.100}: keep one of them")
    boxes: dict[tuple[str, Id], Box] = {}
    for where, record in _records(file, content, "annotations"):
        box = _box(where, record, images, categories)
        if boxes.setdefault((box.image.name, box.id), box) is not box:  # TACO uses some ids in two images
            raise DataError(
                f"{where}.id is {box.id!r:.60}, used twice in image {box.image.name:.100}: make the ids unique"
            )
    return list(dict.fromkeys(categories.values())), list(images.values()), list(boxes.values())


def _drop_segmentation(record: dict[str, Any]) -> dict[str, Any]:
    """Drop segmentations while parsing; they are most of the file."""
    record.pop("segmentation", None)
    return record


def _records(file: Path, content: Any, name: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the entries of a list, each with its location for error messages.

    Raises:
        DataError: A required key is missing or has another type, or an id of images or categories is not unique.
    """
    values = content.get(name) if isinstance(content, dict) else None
    if not isinstance(values, list):
        raise DataError(f"{file} has no list {name!r}: give a COCO file with images, annotations and categories")
    found, ids = [], set()
    for place, record in enumerate(values):
        where = f"{file}: {name}[{place}]"
        for key, types in REQUIRED[name].items():
            value = record.get(key) if isinstance(record, dict) else None
            if not isinstance(value, types):
                kinds = " or ".join(kind.__name__ for kind in types)
                raise DataError(f"{where}.{key} is {_shown(value)}: expected {kinds}")
        if record["id"] in ids and name != "annotations":
            raise DataError(f"{where}.id is {_shown(record['id'])}, as in an earlier entry: make the ids unique")
        ids.add(record["id"])
        found.append((where, record))
    return found


def _image(where: str, record: dict[str, Any]) -> CocoImage:
    path = PurePosixPath(record["file_name"].replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.name or UNSAFE.search(str(path)):
        raise DataError(f"{where}.file_name is {record['file_name']!r:.100}: expected a path below data.root")
    width, height = record["width"], record["height"]
    if not (1 <= width <= MAX_PX and 1 <= height <= MAX_PX) or width % 1 or height % 1:
        raise DataError(f"{where}: width and height are {_shown([width, height])}: expected integers of at least 1")
    urls = {key: url for key, url in record.items() if key.endswith("url") and isinstance(url, str) and url}
    return CocoImage(str(path), int(width), int(height), urls)


def _box(where: str, record: dict[str, Any], images: Mapping[Id, CocoImage], categories: Mapping[Id, str]) -> Box:
    for key, name, known in (("image_id", "images", images), ("category_id", "categories", categories)):
        if record[key] not in known:
            raise DataError(f"{where}.{key} is {_shown(record[key])}: expected the id of one of the {name}")
    bbox, image = record["bbox"], images[record["image_id"]]
    if len(bbox) != 4 or not all(isinstance(value, int | float) and abs(value) <= MAX_PX for value in bbox):
        raise DataError(f"{where}.bbox is {_shown(bbox)}: expected [left, top, width, height] in px")
    left, top, width, height = map(float, bbox)
    right, bottom = left + width, top + height
    if min(width, height, right, bottom) < 0 or left > image.width or top > image.height:
        size = f"{image.width} x {image.height}"
        raise DataError(f"{where}.bbox is {bbox}: expected a box in its image {image.name:.100} of {size} px")
    edges = max(left, 0.0), max(top, 0.0), min(right, float(image.width)), min(bottom, float(image.height))
    return Box(record["id"], image, categories[record["category_id"]], edges, record.get("iscrowd") == 1)


def _shown(value: Any) -> str:
    """Return an invalid value for an error message, in at most 60 characters."""
    return "missing" if value is None else f"{value!r:.60}"
