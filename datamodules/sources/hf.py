"""Hugging Face datasets: a folder written by `Dataset.save_to_disk` with one image and one label column."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.sources.archive.extracted import Record, UnpackedSource, unpack_records
from datamodules.sources.folder import SPLIT_NAMES
from litesort.errors import DataError


class HfSource(UnpackedSource):
    """Images of a local `datasets` folder, unpacked into the cache on first use. Nothing is downloaded, and no code is
    executed.

    Splits of the folder (train, validation, test) define the split.

    Args:
        root: The folder.
        image: Column of the images; None selects the only one.
        label: Column of the labels: class labels or names.
        cache_dir: Folder of the unpacked images; None is the default cache folder.

    Raises:
        DataError: The package `datasets` is missing, or the folder or a column does not exist.
    """

    def __init__(
        self,
        root: str | Path | None,
        image: str | None = None,
        label: str = "label",
        cache_dir: str | Path | None = None,
    ) -> None:
        try:
            import datasets
        except ImportError as error:
            raise DataError("data=hf needs the package datasets: pip install -e '.[hf]'") from error
        if root is None:
            raise DataError("data.root is not set: give a folder written by datasets' save_to_disk")
        if not Path(root).expanduser().is_dir():
            raise DataError(f"data.root={root} is not a folder: give a folder written by datasets' save_to_disk")
        top = Path(root).expanduser()
        try:
            loaded = datasets.load_from_disk(str(top))
        except Exception as error:  # datasets raises many types of exceptions
            line = " ".join(str(error).split())[:120]
            raise DataError(f"data.root={root} is not a folder written by datasets' save_to_disk ({line})") from error
        parts = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
        files = sorted(file for file in top.rglob("*") if file.is_file())
        super().__init__(unpack_records("hf", files, (image, label), lambda: _records(parts, image, label), cache_dir))


def _records(parts: dict[str, Any], image: str | None, label: str) -> Iterator[Record]:
    from datasets import ClassLabel, Image

    for split, part in parts.items():
        if split and split.casefold() not in SPLIT_NAMES:
            raise DataError(f"data.root: split {split:.50} is not train, validation or test: rename or remove it")
        columns = [name for name, feature in part.features.items() if isinstance(feature, Image)]
        column = image or (columns[0] if len(columns) == 1 else None)
        if column not in columns:
            raise DataError(
                f"data.source.image={image} is not a column of images: expected one of {', '.join(columns) or 'none'}"
            )
        if label not in part.features:
            raise DataError(f"data.source.label={label} is not a column: expected one of {', '.join(part.features)}")
        kind = part.features[label]
        for number, row in enumerate(part.cast_column(column, Image(decode=False))):
            cell, value = row[column] or {}, row[label]
            if value is None or value == -1:
                continue  # no label
            content = cell.get("bytes") or _read(cell.get("path"))
            yield Record(
                f"{split}/{number}", kind.int2str(value) if isinstance(kind, ClassLabel) else str(value), split, content
            )


def _read(path: str | None) -> bytes:
    """Read an image that the table refers to by path. An unreadable file is empty, which is a broken image."""
    try:
        return Path(path).read_bytes() if path else b""
    except OSError:
        return b""
