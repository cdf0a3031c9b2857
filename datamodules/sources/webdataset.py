"""WebDataset: tar shards in which the files of one photo share a name, as in 0001.jpg and 0001.cls."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.sources.archive.extracted import Record, UnpackedSource, unpacked
from datamodules.sources.folder import SUFFIXES, natural
from litesort.errors import DataError

PREFIXES = ("train", "val", "test")


class WebDatasetSource(UnpackedSource):
    """Photos of tar shards, unpacked into the cache at first use.

    Shards whose names begin with train, val or test are taken as the split, where all do.

    Args:
        root: a folder of *.tar files, or one of them.
        label: suffix of the file that holds a photo's label: "cls" (a name or a number), or "json:FIELD".
        names: class names by number, where labels are numbers; None keeps what the labels say.
        cache_dir: where photos are kept; None is litesort's cache.

    Raises:
        DataError: the package is missing, there are no shards, or they do not hold photos with labels.
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
            raise DataError("data.root is not given: name the folder that holds the tar shards: data.root=shards")
        top = Path(root).expanduser()
        shards = [top] if top.is_file() else sorted(top.glob("*.tar"), key=lambda file: natural(file.name))
        if not shards:
            raise DataError(f"data.root={root} holds no *.tar: give the folder of the shards, or one of them")
        super().__init__(unpacked("webdataset", shards, label, lambda: _records(shards, label), cache_dir), names)


def _records(shards: Sequence[Path], label: str) -> Iterator[Record]:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    splits = [next((prefix for prefix in PREFIXES if shard.name.startswith(prefix)), "") for shard in shards]
    for shard, split in zip(shards, splits, strict=True):
        try:
            with shard.open("rb") as stream:
                for sample in group_by_keys(tar_file_expander([{"url": str(shard), "stream": stream}])):
                    name, content = _photo(sample)
                    if content is not None:
                        yield Record(name, _label(shard, sample, label), split if all(splits) else "", content)
        except DataError:
            raise
        except Exception as error:  # tar files and their readers fail in many ways
            raise DataError(f"{shard} cannot be read as a tar shard ({' '.join(str(error).split())[:120]})") from error


def _photo(sample: dict[str, Any]) -> tuple[str, bytes | None]:
    key = next((key for key in sample if f".{key.rsplit('.', 1)[-1].lower()}" in SUFFIXES), None)
    return f"{sample['__key__']}.{key}", sample[key] if key else None


def _label(shard: Path, sample: dict[str, Any], label: str) -> str:
    suffix, _, field = label.partition(":")
    where = f"{shard}: {sample['__key__']:.80}"
    if suffix not in sample:
        raise DataError(f"{where} has no .{suffix} file: data.source.label={label} names the one that holds the label")
    try:
        text = sample[suffix].decode()
        value = str(json.loads(text)[field]).strip() if field else text.strip()
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{where}.{suffix} holds no label as data.source.label={label} says: correct it") from error
    if not value:
        raise DataError(f"{where}.{suffix} is blank: give a label")
    return value
