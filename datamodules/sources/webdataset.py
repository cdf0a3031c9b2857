"""WebDataset: tar shards in which the files of one sample share a name, e.g. 0001.jpg and 0001.cls."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.sources.archive.extracted import Record, UnpackedSource, unpack_records
from datamodules.sources.folder import SUFFIXES, natural_key
from litesort.errors import DataError

PREFIXES = ("train", "val", "test")


class WebDatasetSource(UnpackedSource):
    """Images of tar shards, unpacked into the cache on first use.

    If the names of all shards begin with train, val or test, they define the split.

    Args:
        root: Folder of *.tar files, or one of them.
        label: Suffix of the label file: "cls" (a name or a number), or "json:FIELD".
        names: Class names by number, if labels are numbers; None uses the labels as names.
        cache_dir: Folder of the unpacked images; None is the default cache folder.

    Raises:
        DataError: The package `webdataset` is missing, there are no shards, a shard is not a tar file, an image
            has no label, or there are no images.
    """

    def __init__(
        self,
        root: str | Path | None,
        label: str = "cls",
        names: Sequence[str] | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        try:
            import webdataset  # noqa: F401
        except ImportError as error:
            raise DataError("data=webdataset needs the package webdataset: pip install -e '.[webdataset]'") from error
        if root is None:
            raise DataError("data.root is not set: give the folder of the tar shards, e.g. data.root=shards")
        top = Path(root).expanduser()
        shards = [top] if top.is_file() else sorted(top.glob("*.tar"), key=lambda file: natural_key(file.name))
        if not shards:
            raise DataError(f"data.root={root} contains no *.tar: give the folder of the shards, or one shard")
        super().__init__(unpack_records("webdataset", shards, label, lambda: _records(shards, label), cache_dir), names)


def _records(shards: Sequence[Path], label: str) -> Iterator[Record]:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    splits = [next((prefix for prefix in PREFIXES if shard.name.startswith(prefix)), "") for shard in shards]
    for shard, split in zip(shards, splits, strict=True):
        try:
            with shard.open("rb") as stream:
                for sample in group_by_keys(tar_file_expander([{"url": str(shard), "stream": stream}])):
                    name, content = _image(sample)
                    if content is not None:
                        yield Record(name, _label(shard, sample, label), split if all(splits) else "", content)
        except DataError:
            raise
        except Exception as error:  # readers of tar files raise many types of exceptions
            raise DataError(f"{shard} cannot be read as a tar shard ({' '.join(str(error).split())[:120]})") from error


def _image(sample: dict[str, Any]) -> tuple[str, bytes | None]:
    key = next((key for key in sample if f".{key.rsplit('.', 1)[-1].lower()}" in SUFFIXES), None)
    return f"{sample['__key__']}.{key}", sample[key] if key else None


def _label(shard: Path, sample: dict[str, Any], label: str) -> str:
    suffix, _, field = label.partition(":")
    where = f"{shard}: {sample['__key__']:.80}"
    if suffix not in sample:
        raise DataError(f"{where} has no .{suffix} file: data.source.label={label} must name the label file")
    try:
        text = sample[suffix].decode()
        value = str(json.loads(text)[field]).strip() if field else text.strip()
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"{where}.{suffix} does not contain the label of data.source.label={label}: correct one of them"
        ) from error
    if not value:
        raise DataError(f"{where}.{suffix} is empty: give a label")
    return value
