"""A COCO file of boxes, read with suspicion: what cannot be used ends in one line that names the place."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules import DataError

MAX_BYTES = 512 << 20  # COCO's own largest file has 450 MB; parsed, a file takes several times its size in memory
FARTHEST = 1e7  # px: more is no coordinate
Id = int | str


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo as the file records it: name relative to the root, width and height in px, addresses by their key."""

    name: str
    width: int
    height: int
    urls: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Box:
    """An annotated object: left, top, right, bottom in px of the photo as recorded, cut at its edges."""

    id: Id
    photo: Photo
    category: str
    edges: tuple[float, float, float, float]
    crowd: bool


def read_coco(file: Path) -> tuple[list[str], list[Photo], list[Box]]:
    """Category names, photos and boxes, each in the order of the file; boxes without area are among them.

    Raises:
        DataError: no such file, no COCO, or an entry that cannot be used; the message names it.
    """
    content = _load(file)
    categories: dict[Id, str] = {}
    for where, record in _records(file, content, "categories"):
        _add(categories, where, record, _text(where, record, "name"))
    photos = _photos(file, content)
    boxes: dict[tuple[str, Id], Box] = {}
    for where, record in _records(file, content, "annotations"):
        box = _box(where, record, photos, categories)
        key = box.photo.name, box.id  # enough to name it: in TACO's own file two numbers stand in two photos each
        if key in boxes:
            raise DataError(
                f"{where}: id {box.id!s:.50} is there twice in photo {key[0]:.100}: number the entries anew"
            )
        boxes[key] = box
    return list(dict.fromkeys(categories.values())), list(photos.values()), list(boxes.values())


def _load(file: Path) -> dict[str, Any]:
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{file} is {size >> 20} MB long, more than the limit of {MAX_BYTES >> 20}: split it")
        content = json.loads(file.read_bytes(), object_hook=_lighter)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}: give a COCO file of boxes") from error
    except DataError:  # a ValueError, and already one line
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        reason = "is nested too deeply" if isinstance(error, RecursionError) else f"is no JSON ({error or 'too large'})"
        raise DataError(f"{file} {reason:.200}: give a COCO file of boxes") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} holds {_shown(content)}, expected images, annotations and categories")
    return content


def _lighter(record: dict[str, Any]) -> dict[str, Any]:
    """Let go of outlines while the file is parsed: they are most of it."""
    record.pop("segmentation", None)
    return record


def _photos(file: Path, content: dict[str, Any]) -> dict[Id, Photo]:
    photos: dict[Id, Photo] = {}
    names: dict[str, str] = {}
    for where, record in _records(file, content, "images"):
        name = _text(where, record, "file_name").replace("\\", "/")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.name or re.search(r"^[A-Za-z]:|[\x00-\x1f\x7f]", name):
            raise DataError(f"{where}: file_name is {name!r:.100}, expected a path below data.root")
        if names.setdefault(str(path), where) != where:
            raise DataError(f"{where}: file_name {name:.100} is that of {names[str(path)].rpartition(': ')[2]} too")
        width, height = (_number(where, key, record.get(key)) for key in ("width", "height"))
        if min(width, height) < 1 or width % 1 or height % 1:
            raise DataError(f"{where}: width and height are {width:g} and {height:g}, expected whole numbers from 1 up")
        urls = {key: url for key, url in record.items() if key.endswith("url") and isinstance(url, str) and url}
        _add(photos, where, record, Photo(str(path), int(width), int(height), urls))
    return photos


def _box(where: str, record: dict[str, Any], photos: dict[Id, Photo], categories: dict[Id, str]) -> Box:
    photo, category = _referred(where, record, "image_id", photos), _referred(where, record, "category_id", categories)
    bbox = record.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise DataError(f"{where}: bbox is {_shown(bbox)}, expected [left, top, width, height]")
    left, top, width, height = (_number(where, "bbox", value) for value in bbox)
    if width < 0 or height < 0:
        raise DataError(f"{where}: bbox {bbox} has a negative side, expected [left, top, width, height]")
    right, bottom = left + width, top + height
    if right < 0 or bottom < 0 or left > photo.width or top > photo.height:
        raise DataError(f"{where}: bbox {bbox} lies outside its photo {photo.name} of {photo.width} x {photo.height}")
    edges = max(left, 0.0), max(top, 0.0), min(right, photo.width), min(bottom, photo.height)
    crowd = record.get("iscrowd") or 0
    if crowd not in (0, 1):
        raise DataError(f"{where}: iscrowd is {_shown(crowd)}, expected 0 or 1")
    return Box(record["id"], photo, category, edges, bool(crowd))


def _records(file: Path, content: dict[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    """Each entry of a list with the words for its place; all have an id."""
    values, found = content.get(key), []
    if not isinstance(values, list):
        raise DataError(f"{file}: {key} is {_shown(values)}, expected a list: give a COCO file of boxes")
    for place, value in enumerate(values):
        where = f"{file}: {key}[{place}]"
        if not isinstance(value, dict):
            raise DataError(f"{where} is {_shown(value)}, expected an object with an id")
        if not _is_id(value.get("id")):
            raise DataError(f"{where}: id is {_shown(value.get('id'))}, expected a number")
        found.append((where, value))
    return found


def _add(known: dict[Id, Any], where: str, record: dict[str, Any], value: Any) -> None:
    if record["id"] in known:
        raise DataError(f"{where}: id {record['id']!s:.50} is there twice: number the entries anew")
    known[record["id"]] = value


def _referred(where: str, record: dict[str, Any], key: str, known: Mapping[Id, Any]) -> Any:
    value: Any = record.get(key)
    if not _is_id(value) or value not in known:
        kinds = {"image_id": "images", "category_id": "categories"}[key]
        raise DataError(f"{where}: {key} is {_shown(value)}, expected the id of one of the {kinds}")
    return known[value]


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _text(where: str, record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip() or not _encodable(value):
        raise DataError(f"{where}: {key} is {_shown(value)}, expected text")
    return value


def _encodable(text: str) -> bool:
    try:
        return "\0" not in text and bool(text.encode())
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        return False


def _number(where: str, key: str, value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= FARTHEST:
        return float(value)
    if value is None:
        raise DataError(f"{where}: {key} is missing or null, expected px below {FARTHEST:g}")
    extra = " finite" if isinstance(value, float) and not math.isfinite(value) else ""
    raise DataError(f"{where}: {key} holds {_shown(value)}, expected{extra} px below {FARTHEST:g}")


def _shown(value: Any) -> str:
    """A wrong value in a few words; it may be anything of any size."""
    if value is None:
        return "missing"
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'dict'} of {len(value)}"
    if isinstance(value, int) and abs(value) > 10**20:
        return "a huge number"
    return f"{value!r:.60}"
