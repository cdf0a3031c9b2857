"""EditedSource: a source without excluded images, or with corrected labels."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datamodules.quarantine import first_process
from datamodules.sources.base import Source
from datamodules.sources.csv_table import read_table
from litesort.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EditConfig:
    """Images to leave out or to relabel. Paths are written as in reports.

    Attributes:
        exclude: CSV file with the column path: images to leave out.
        relabel: CSV file with the columns path,label: images with corrected labels.
    """

    exclude: str | Path | None = None
    relabel: str | Path | None = None


class EditedSource(Source):
    """Another source without some images, or with other labels.

    Args:
        source: The original source.
        exclude: Paths of the samples to leave out.
        labels: Path -> new class name.

    Raises:
        DataError: A label is not a class of the source, or no image remains.
    """

    def __init__(self, source: Source, exclude: set[str], labels: Mapping[str, str]) -> None:
        self.source, self.root, self.classes = source, source.root, source.classes
        for path, name in labels.items():
            if name not in self.classes:
                known = ", ".join(self.classes)
                raise DataError(f"data.relabel gives {path:.100} the label {name:.50}, expected one of {known:.200}")
        self.rows = [row for row, sample in enumerate(source.samples) if sample.path not in exclude]
        if not self.rows:
            raise DataError("data.exclude contains all images: none remains")
        kept = [source.samples[row] for row in self.rows]
        self.samples = [
            replace(sample, label=self.classes.index(labels[sample.path])) if sample.path in labels else sample
            for sample in kept
        ]

    def prepare(self) -> None:
        self.source.prepare()

    def file(self, index: int) -> Path:
        return self.source.file(self.rows[index])

    def read(self, index: int, min_side: int | None = None) -> np.ndarray:
        return self.source.read(self.rows[index], min_side)

    def digest(self, index: int) -> bytes:
        return self.source.digest(self.rows[index])


def apply_edits(source: Source, edits: EditConfig) -> Source:
    """Apply edits to a source. Paths that are not in the source are logged as a warning.

    Raises:
        DataError: A file is missing or invalid, or none of its paths is in the source.
    """
    exclude, relabel = edits.exclude, edits.relabel
    if exclude is None and relabel is None:
        return source
    known = {sample.path for sample in source.samples}
    excluded = set(_paths("exclude", exclude, ["path"], known))
    labels = {path: row["label"] for path, row in _paths("relabel", relabel, ["path", "label"], known).items()}
    if first_process():
        changed = len(labels.keys() - excluded)
        log.info("data: left out by data.exclude: %d, relabelled by data.relabel: %d", len(excluded), changed)
    return EditedSource(source, excluded, labels)


def _paths(key: str, file: str | Path | None, columns: list[str], known: set[str]) -> dict[str, dict[str, str]]:
    """Return path -> row of a CSV file, for the paths that are in the source."""
    if file is None:
        return {}
    list_file = Path(file).expanduser()
    if not list_file.is_file():
        raise DataError(f"data.{key}={file} is not a file: give a CSV file whose first line is {','.join(columns)}")
    rows: dict[str, dict[str, str]] = {}
    for line, row in read_table(list_file, columns, []):
        if rows.setdefault(row["path"], row) != row:
            raise DataError(f"{file}, line {line}: {row['path']} is listed with two labels: keep one")
    found = {path: row for path, row in rows.items() if path in known}
    unknown = next((path for path in rows if path not in known), None)
    if not found:
        first = f", the first {unknown!r:.100}" if unknown else ""
        raise DataError(f"data.{key}={file} contains none of the images{first}: write paths as in {min(known)!r:.100}")
    if unknown is not None and first_process():
        count = len(rows) - len(found)
        log.warning(
            "data.%s=%s: %d of %d paths are not among the images, e.g. %s", key, file, count, len(rows), unknown
        )
    return found


def map_classes(source: Source, classes: Sequence[str] | None) -> tuple[list[str], np.ndarray]:
    """Return class names and labels (N,) int64 of a source. If `classes` is given, labels are indices into it.

    Raises:
        DataError: The source has a class that is not in `classes`.
    """
    names = list(source.classes if classes is None else classes)
    unknown = [name for name in source.classes if name not in names]
    if unknown:
        raise DataError(
            f"data: class {', '.join(unknown)} is not a class of the network ({', '.join(names)}): rename or remove it"
        )
    place = np.array([names.index(name) for name in source.classes], np.int64)
    return names, place[np.array([sample.label for sample in source.samples], np.int64)]
