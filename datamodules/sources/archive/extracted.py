"""Sources of images inside other files (tar shards, tables): unpacked once into the cache, then read as a file list."""

import csv
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from datamodules.cache import default_cache_dir
from datamodules.sources.filelist import FileListSource
from litesort.errors import DataError

COLUMNS = ["path", "label", "split", "group"]


class Record(NamedTuple):
    """One image of a container: name, class name, split ("" if undefined) and content of the file."""

    name: str
    label: str
    split: str
    content: bytes


def unpack_records(
    kind: str,
    files: Sequence[Path],
    settings: object,
    records: Callable[[], Iterator[Record]],
    cache_dir: str | Path | None,
) -> Path:
    """Write all records to a folder of the cache, unless it exists for the same files and settings.

    The name of the folder is a hash of the size and time of the files and of `settings`. The folder is written
    atomically.

    Args:
        kind: Name of the parent folder.
        files: Files of the container.
        settings: Settings that change the records.
        records: Yields the records.
        cache_dir: Folder of the cache; None is the default folder.

    Returns:
        CSV file of the images.

    Raises:
        DataError: The folder cannot be written, or there are no records. Errors of `records` are passed on.
    """
    states = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(json.dumps([states, repr(settings)]).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    parent = (Path(cache_dir).expanduser() if cache_dir is not None else default_cache_dir()) / kind
    folder, scratch = parent / key, parent / f".{key}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):  # concurrent jobs unpack once
            if not folder.is_dir():
                shutil.rmtree(scratch, ignore_errors=True)  # left by a killed process
                if not _write(scratch, records()):
                    raise DataError(f"data.root: no image with a label in {files[0].parent}: give another folder")
                scratch.rename(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror or error}): set data.cache_dir") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder / "list.csv"


def _write(folder: Path, records: Iterator[Record]) -> int:
    """Write the images and their list, and return their number.

    The files are named by numbers, so that no name in a container leads outside of the folder.
    """
    count = 0
    (folder / "images").mkdir(parents=True)
    with (folder / "list.csv").open("w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle)
        rows.writerow([*COLUMNS, "name"])
        for count, record in enumerate(records, 1):
            number = count - 1
            path = f"images/{number // 1000:05d}/{number:08d}{_suffix(record.content)}"
            if number % 1000 == 0:
                (folder / path).parent.mkdir()
            (folder / path).write_bytes(record.content)
            rows.writerow([path, record.label, record.split, "", record.name.encode("utf-8", "replace").decode()])
    return count


def _suffix(content: bytes) -> str:
    known = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp", b"GI": ".gif", b"BM": ".bmp"}
    return known.get(content[:2], ".img")


class UnpackedSource(FileListSource):
    """A list written by `unpack_records`. Its labels can be indices into given class names."""

    def __init__(self, file: Path, names: Sequence[str] | None = None) -> None:
        super().__init__(file)
        if names is None:
            return
        wrong = next((name for name in self.classes if not name.isdecimal() or int(name) >= len(names)), None)
        if wrong is not None:
            raise DataError(
                f"data.source.names has {len(names)} names, but a label is {wrong:.50}: give all names, or null"
            )
        numbers = [int(name) for name in self.classes]
        present = sorted(set(numbers))  # "1" and "01" are one class
        self.samples = [replace(sample, label=present.index(numbers[sample.label])) for sample in self.samples]
        self.classes = [names[number] for number in present]
