"""A folder that `datasets.Dataset.save_to_disk` wrote (Hugging Face), with one column of photos and one of labels."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.sources.archive.extracted import Record, UnpackedSource, unpacked
from datamodules.sources.folder import SPLIT_NAMES
from litesort.errors import DataError


class HfSource(UnpackedSource):
    """Photos of a local `datasets` folder, unpacked into the cache at first use; nothing is fetched and no code run.

    A folder of several splits (train, validation, test) names the split.

    Args:
        root: the folder.
        image: column of the photos; None is the only one there.
        label: column of the labels: class labels, or names.
        cache_dir: where photos are kept; None is litesort's cache.

    Raises:
        DataError: the package is missing, there is no such folder, or no such columns.
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
        if root is None or not Path(root).expanduser().is_dir():
            raise DataError(f"data.root={root} is not a folder: give one that datasets' save_to_disk wrote")
        top = Path(root).expanduser()
        try:
            loaded = datasets.load_from_disk(str(top))
        except Exception as error:  # whatever is wrong with the folder
            line = " ".join(str(error).split())[:120]
            raise DataError(f"data.root={root} is no folder that datasets' save_to_disk wrote ({line})") from error
        parts = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
        files = sorted(file for file in top.rglob("*") if file.is_file())
        super().__init__(unpacked("hf", files, (image, label), lambda: _records(parts, image, label), cache_dir))


def _records(parts: dict[str, Any], image: str | None, label: str) -> Iterator[Record]:
    from datasets import ClassLabel, Image

    for split, part in parts.items():
        if split and split.casefold() not in SPLIT_NAMES:
            raise DataError(f"data.root: split {split:.50} is not train, validation or test: rename or remove it")
        columns = [name for name, feature in part.features.items() if isinstance(feature, Image)]
        column = image or (columns[0] if len(columns) == 1 else None)
        if column not in columns:
            raise DataError(
                f"data.source.image={image} names no column of photos: there are {', '.join(columns) or 'none'}"
            )
        if label not in part.features:
            raise DataError(f"data.source.label={label} is no column: there are {', '.join(part.features)}")
        kind = part.features[label]
        for number, row in enumerate(part.cast_column(column, Image(decode=False))):
            photo, value = row[column] or {}, row[label]
            if value is None or value == -1:
                continue  # the usual mark of a photo without a label
            content = photo.get("bytes") or _read(photo.get("path"))
            yield Record(
                f"{split}/{number}", kind.int2str(value) if isinstance(kind, ClassLabel) else str(value), split, content
            )


def _read(path: str | None) -> bytes:
    """A photo that the table only points to; what cannot be read is an empty file, and so a broken photo."""
    try:
        return Path(path).read_bytes() if path else b""
    except OSError:
        return b""
