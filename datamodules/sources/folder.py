"""Class folders: `root/<class>/**/<image>`, or `root/<train|val|test>/<class>/**/<image>`."""

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
    """One sub-folder per class, with images of any size at any depth.

    The order is natural (img2 before img10) and the same on every machine. Hidden files and files without an image
    suffix are ignored. No file is opened; broken images are found when they are read. If all sub-folders of the root
    are named train, val (valid, validation) or test, they define the split.

    Args:
        root: The folder.

    Raises:
        DataError: The folder does not exist, cannot be listed, has no class folders, or a class has no image.
    """

    def __init__(self, root: str | Path | None) -> None:
        if root is None:
            raise DataError("data.root is not set: give a folder with one sub-folder per class, e.g. data.root=photos")
        self.root = Path(root).expanduser()
        if not self.root.exists():
            raise DataError(f"data.root={root} does not exist: give a folder with one sub-folder per class")
        if not self.root.is_dir():
            raise DataError(
                f"data.root={root} is a file: give a folder, or use data=filelist data.file=... for a list of images"
            )
        tops = _split_folders(self.root) or {self.root.absolute(): None}
        folders = [(split, folder) for top, split in tops.items() for folder in _folders(top)]
        # a link to a parent folder would list all images as one class
        above = {_identity(folder) for folder in (self.root, *tops)}
        self.classes = sorted({folder.name for _, folder in folders}, key=natural_key)
        self.samples = [
            Sample(file.relative_to(self.root.absolute()).as_posix(), self.classes.index(folder.name), split)
            for split, folder in folders
            for file in _image_files(folder, above)
        ]
        self._check()

    def _check(self) -> None:
        if not self.classes:
            raise DataError(f"data.root={self.root} has no sub-folders: put the images into one sub-folder per class")
        found = {sample.label for sample in self.samples}
        empty = [name for label, name in enumerate(self.classes) if label not in found]
        if empty:
            raise DataError(
                f"data.root={self.root}: no image in class folder {', '.join(empty)}: add images or remove the folder"
            )


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key that compares digits as numbers.

    >>> sorted(["img10", "img2", "Img1"], key=natural_key)
    ['Img1', 'img2', 'img10']
    """
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(int(part), "") if part.isdigit() and part.isascii() else (-1, part) for part in parts], name


def _folders(top: Path) -> list[Path]:
    """Return the visible sub-folders in natural order."""
    try:
        with os.scandir(top) as entries:
            names = [entry.name for entry in entries if entry.is_dir() and not _hidden(entry.name)]
    except OSError as error:
        raise DataError(
            f"data.root: {top} cannot be listed ({error.strerror or error}): check its permissions"
        ) from error
    return [top / name for name in sorted(names, key=natural_key)]


def _split_folders(root: Path) -> dict[Path, Split | None]:
    """Return the split folders below `root`, or {} if its sub-folders are classes."""
    folders = _folders(root.absolute())
    known = {folder: SPLIT_NAMES.get(folder.name.casefold()) for folder in folders}
    splits = {split for split in known.values() if split}
    others = [folder.name for folder, split in known.items() if split is None]
    if "train" in splits and len(splits) > 1 and others:
        raise DataError(
            f"data.root={root} contains split folders ({', '.join(sorted(splits))}) beside {others[0]}: "
            f"move {others[0]} away, or move the class folders of the splits up"
        )
    return {} if others or "train" not in splits else dict(known)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def images_below(folder: Path) -> Iterator[Path]:
    """Yield files with an image suffix at any depth below `folder`, in natural order, without hidden files.

    A folder that cannot be listed is yielded itself, as a broken image.
    """
    return _image_files(folder, set())


def _identity(folder: Path) -> tuple[int, int]:
    """Return device and inode, which are equal for all paths to one folder."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _image_files(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Yield files with an image suffix below `folder`, in natural order. Links are followed, but not in a cycle."""
    try:
        if (identity := _identity(folder)) in seen:
            return
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not _hidden(entry.name)]
    except OSError:
        yield folder  # it is reported as a broken image
        return
    seen = seen | {identity}
    visible.sort(key=lambda entry: natural_key(entry.name))
    for entry in visible:
        if entry.is_dir():
            yield from _image_files(folder / entry.name, seen)
        elif Path(entry.name).suffix.lower() in SUFFIXES:
            yield folder / entry.name
