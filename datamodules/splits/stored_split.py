"""StoredSplit: the split of a run, stored in its checkpoint. Images are identified by their content.

If a split is drawn again after a file is added or removed, training images can become test images. A stored split does
not change. It stays valid if the folder is moved or files are renamed.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.cache.key import UNREADABLE, DigestIndex
from datamodules.splits.split import Indices
from litesort.errors import DataError

# Bits of a split. An image can be in val and in test, if the source defines no test images.
NEW, TRAIN, VAL, TEST, UNUSED = 0, 1, 2, 4, 8
EARLIER = TRAIN | UNUSED  # unused in this run, but a training image of the network that this run started from
SPLIT_BITS = {"train": TRAIN, "val": VAL, "test": TEST}
FORMAT = 1


def split_bits(rows: Indices, count: int) -> np.ndarray:
    """Bits of each sample, (count,) uint8, for a split given as rows. Samples in no row are `UNUSED`.

    >>> split_bits({"train": np.array([0]), "val": np.array([2]), "test": np.array([2])}, 4).tolist()
    [1, 8, 6, 8]
    """
    bits = np.zeros(count, np.uint8)
    for name, own in rows.items():
        bits[own] |= SPLIT_BITS[name]
    bits[bits == NEW] = UNUSED
    return bits


def sample_keys(index: DigestIndex, workers: int | None = None, progress: bool = True) -> np.ndarray:
    """Keys (N,) uint64 of the samples of a source: the first 8 bytes of the digest of file content and box.

    The key of an unreadable file is a hash of its path.
    """
    found = index.digests(workers, progress)
    paths = [sample.path for sample in index.source.samples]
    by_path = [hashlib.sha256(b"path:" + path.encode(errors="surrogatepass")).digest() for path in paths]
    keys = [own if digest == UNREADABLE else digest for digest, own in zip(found, by_path, strict=True)]
    return np.frombuffer(b"".join(key[:8] for key in keys), ">u8").astype(np.uint64)


@dataclass(frozen=True)
class StoredSplit:
    """Split of the samples of a run.

    Attributes:
        keys: (N,) uint64, from `sample_keys`.
        bits: (N,) uint8, bits `TRAIN`, `VAL`, `TEST`. `UNUSED` is a training image that `class_fraction` left out.
            `EARLIER` is a training image of the network that this run started from, and no image of this run.
    """

    keys: np.ndarray
    bits: np.ndarray

    def pack(self) -> dict[str, Any]:
        """Return plain data for a checkpoint: format number and two strings, 11.7 characters per image."""
        keys = base64.b64encode(self.keys.astype(">u8").tobytes()).decode()
        return {"format": FORMAT, "keys": keys, "bits": "".join(map(str, self.bits.tolist()))}

    @classmethod
    def unpack(cls, packed: Any) -> "StoredSplit":
        """Restore a split from the plain data of `pack`.

        Raises:
            DataError: The data are damaged, or a newer version of litesort wrote them.
        """
        try:
            if packed["format"] != FORMAT:
                raise DataError(f"ckpt: its split has format {packed['format']}: pip install -U litesort")
            keys = np.frombuffer(base64.b64decode(packed["keys"], validate=True), ">u8").astype(np.uint64)
            bits = np.frombuffer(packed["bits"].encode("ascii"), np.uint8) - ord("0")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError("ckpt: its split is damaged: take another copy of the file") from error
        if len(keys) != len(bits) or not np.isin(bits, (TRAIN, VAL, TEST, VAL | TEST, UNUSED, EARLIER)).all():
            raise DataError("ckpt: its split is damaged: take another copy of the file")
        return cls(keys, bits)

    def look_up(self, keys: np.ndarray) -> np.ndarray:
        """Split (M,) uint8 of samples by their keys (M,) uint64; `NEW` for images that are not in the stored split.

        Identical copies of an image are matched by their order. If the number of copies has changed, all are training
        images if one of them was; otherwise, additional copies are `UNUSED`.
        """
        order = np.argsort(self.keys, kind="stable")
        stored = self.keys[order]
        first, last = np.searchsorted(stored, keys, "left"), np.searchsorted(stored, keys, "right")
        bits = np.zeros(len(keys), np.uint8)
        _, group, copies = np.unique(keys, return_inverse=True, return_counts=True)
        by_group = np.argsort(group, kind="stable")
        number = np.empty(len(keys), np.int64)  # position of a copy among its identical copies
        number[by_group] = np.arange(len(keys)) - (np.cumsum(copies) - copies)[group[by_group]]
        known = last > first
        same = known & (last - first == copies[group])
        bits[same] = self.bits[order[first[same] + number[same]]]
        for row in np.flatnonzero(known & ~same):
            own = self.bits[order[first[row] : last[row]]]
            copy = number[row]
            trained = own[own & TRAIN > 0]
            bits[row] = trained.min() if len(trained) else own[copy] if copy < len(own) else UNUSED
        return bits

    @property
    def count(self) -> int:
        """Number of images of the run itself."""
        return int((self.bits != EARLIER).sum())

    def missing(self, keys: np.ndarray) -> int:
        """Count the images of the stored split that are not among samples with these keys (M,) uint64."""
        own, counts = np.unique(self.keys[self.bits != EARLIER], return_counts=True)
        there = dict(zip(*(part.tolist() for part in np.unique(keys, return_counts=True)), strict=True))
        return sum(max(0, count - there.get(key, 0)) for key, count in zip(own.tolist(), counts.tolist(), strict=True))

    def with_earlier_training(self, earlier: "StoredSplit") -> "StoredSplit":
        """Return this split with the training images of an earlier split, on which the weights were also trained.

        They become `EARLIER` if they are not in this split, or unused in it.
        """
        trained = np.unique(earlier.keys[earlier.bits & TRAIN > 0])
        bits = np.where((self.bits == UNUSED) & np.isin(self.keys, trained), EARLIER, self.bits).astype(np.uint8)
        added = np.setdiff1d(trained, self.keys)
        return StoredSplit(
            np.concatenate([self.keys, added]), np.concatenate([bits, np.full(len(added), EARLIER, np.uint8)])
        )

    def is_same_data(self, bits: np.ndarray) -> bool:
        """Whether `look_up` found the data of the run: at least half of the test images are present.

        Args:
            bits: (M,) uint8, result of `look_up`.
        """
        return 2 * int((bits & TEST > 0).sum()) >= int((self.bits & TEST > 0).sum()) > 0


def as_stored_split(value: "StoredSplit | Mapping[str, Any] | None") -> "StoredSplit | None":
    """Return a stored split from its packed or unpacked form; None stays None."""
    return value if value is None or isinstance(value, StoredSplit) else StoredSplit.unpack(value)
