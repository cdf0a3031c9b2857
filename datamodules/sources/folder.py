"""Class folders: `root/<class>/**/<photo>`, or `root/<train|val|test>/<class>/**/<photo>`."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from datamodules.sources.base import Sample, Source, Split
from litesort.errors import DataError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".avif", ".jp2", ".ico"}
)
SPLIT_NAMES: dict[str, Split] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip


class FolderSource(Source):
    """One sub-folder a class, photos of any size and at any depth below it.

    Order is natural (img2 before img10) and the same on every machine. Hidden files and those without a picture suffix
    are passed over; whether a file with one really is a picture is found out when it is read. If all sub-folders of the
    root are called train, val (valid, validation) or test, they are taken as the split.

    Args:
        root: the folder.

    Raises:
        DataError: no such folder, no class in it, or a class with no photo.
    """

    def __init__(self, root: str | Path | None) -> None:
        if root is None:
            raise DataError(
                "data.root is not given: name the folder that holds one sub-folder a class: data.root=photos"
            )
        self.root = Path(root).expanduser()
        if not self.root.exists():
            raise DataError(f"data.root={root} does not exist: give the folder that holds one sub-folder a class")
        if not self.root.is_dir():
            raise DataError(
                f"data.root={root} is a file: give a folder, or say data=filelist if it is a list of photos"
            )
        tops = _split_folders(self.root) or {self.root.absolute(): None}
        folders = [(split, folder) for top, split in tops.items() for folder in _folders(top)]
        above = {_identity(folder) for folder in (self.root, *tops)}  # a link up would show all photos as one class's
        self.classes = sorted({folder.name for _, folder in folders}, key=natural)
        self.samples = [
            Sample(file.relative_to(self.root.absolute()).as_posix(), self.classes.index(folder.name), split)
            for split, folder in folders
            for file in _photos(folder, above)
        ]
        self._check()

    def _check(self) -> None:
        if not self.classes:
            raise DataError(f"data.root={self.root} has no sub-folders: put the photos into one sub-folder a class")
        found = {sample.label for sample in self.samples}
        empty = [name for label, name in enumerate(self.classes) if label not in found]
        if empty:
            raise DataError(
                f"data.root={self.root}: no photo in class folder {', '.join(empty)}: add photos or remove the folder"
            )


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key that reads digits as numbers.

    >>> sorted(["img10", "img2", "Img1"], key=natural)
    ['Img1', 'img2', 'img10']
    """
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(int(part), "") if part.isdigit() and part.isascii() else (-1, part) for part in parts], name


def _folders(top: Path) -> list[Path]:
    """Visible sub-folders in natural order."""
    with os.scandir(top) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not _hidden(entry.name)]
    return [top / name for name in sorted(names, key=natural)]


def _split_folders(root: Path) -> dict[Path, Split | None]:
    """The split folders below `root`, or {} where its sub-folders are classes."""
    folders = _folders(root.absolute())
    known = {folder: SPLIT_NAMES.get(folder.name.casefold()) for folder in folders}
    splits = {split for split in known.values() if split}
    others = [folder.name for folder, split in known.items() if split is None]
    if "train" in splits and len(splits) > 1 and others:
        raise DataError(
            f"data.root={root} holds split folders ({', '.join(sorted(splits))}) beside {others[0]}: "
            f"move {others[0]} away, or the class folders of the splits up"
        )
    return {} if others or "train" not in splits else dict(known)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def images_below(folder: Path) -> Iterator[Path]:
    """Files with a picture suffix at any depth below `folder`, in natural order; hidden ones are passed over.

    A folder that cannot be looked into stands for its photos, as one that is broken.
    """
    return _photos(folder, set())


def _identity(folder: Path) -> tuple[int, int]:
    """What tells a folder from all others, whatever path it is reached by."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _photos(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Files with a picture suffix below `folder`, in natural order; links are followed, but never in a circle."""
    try:
        if (identity := _identity(folder)) in seen:
            return
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not _hidden(entry.name)]
    except OSError:
        yield folder  # as if it were a photo: whoever reads it names it, and goes on
        return
    seen = seen | {identity}
    visible.sort(key=lambda entry: natural(entry.name))
    for entry in visible:
        if entry.is_dir():
            yield from _photos(folder / entry.name, seen)
        elif Path(entry.name).suffix.lower() in SUFFIXES:
            yield folder / entry.name
