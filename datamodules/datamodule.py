"""ImageDataModule: turn a source of labelled images into batches on the device."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch

from datamodules import images
from datamodules.augment.pipeline import Augment
from datamodules.batch import Batch
from datamodules.cache import open_pixels, pixel_dir
from datamodules.cache.config import CacheConfig
from datamodules.cache.key import DigestIndex
from datamodules.cache.store import Pixels
from datamodules.loader import DecodingLoader, PixelLoader, auto_workers
from datamodules.quality.duplicates import duplicate_groups
from datamodules.quarantine import Quarantine, QuarantineConfig, first_process
from datamodules.samplers import OrderedSampler, Sampler, ShuffleSampler
from datamodules.sources.base import Sample, Source
from datamodules.sources.edited import EditConfig, EditedSource, apply_edits, map_classes
from datamodules.splits.config import SplitConfig, apply_class_fraction
from datamodules.splits.split import Indices, check_classes, missing_class_notes
from datamodules.splits.stored_split import (
    EARLIER,
    NEW,
    SPLIT_BITS,
    TEST,
    TRAIN,
    UNUSED,
    VAL,
    StoredSplit,
    as_stored_split,
    sample_keys,
    split_bits,
)
from litesort.errors import DataError

log = logging.getLogger(__name__)

Loader = PixelLoader | DecodingLoader


class ImageDataModule(pl.LightningDataModule):
    """Prepare, split, load and augment the images of one source.

    Args:
        source: Source of the images and labels.
        size: Side of the square that the network receives, px, at least 1.
        resize: Conversion to a square: "pad" (grey bars), "squash" or "crop" (the central square).
        batch_size: Images in a training batch of one process. A batch-size finder changes it during a run.
        eval_batch_size: Images a batch in validation, test and prediction.
        sampler: Factory of the training sampler, called as sampler(labels, seed=, rank=, world_size=) with labels (n,).
            None shuffles.
        augment: Augmentation of training images; None for no augmentation.
        num_workers: Threads that fill the cache, or processes that decode batches without a cache. "auto" is one per
            core.
        cache: Settings of the pixel cache.
        split: Settings of the split. Its seed is also that of the order and of the augmentation.
        edits: Images to leave out or to relabel. Edits do not change the split of the other images.
        quarantine: What to do with broken images.
        classes: Class names in the order of a trained network. The source's classes are mapped by name.
        stored_split: Split of an earlier run, from its checkpoint. Images in it keep their split.

    Attributes:
        classes: Class names in label order.
        samples: All samples of the source, including broken images.
        labels: (N,) int64, label of each sample.
        repeat_after: Number of epochs after which the training batches repeat; None for never. Set it before the fit.

    Raises:
        DataError: A setting is invalid, or the data cannot be used.
    """

    def __init__(
        self,
        source: Source,
        size: int = 128,
        resize: Literal["pad", "squash", "crop"] = "pad",
        batch_size: int = 32,
        eval_batch_size: int = 64,
        sampler: Callable[..., Sampler] | None = None,
        augment: Augment | None = None,
        num_workers: int | Literal["auto"] = "auto",
        cache: CacheConfig = CacheConfig(),  # noqa: B008 - frozen
        split: SplitConfig = SplitConfig(),  # noqa: B008 - frozen
        edits: EditConfig = EditConfig(),  # noqa: B008 - frozen
        quarantine: QuarantineConfig = QuarantineConfig(),  # noqa: B008 - frozen
        classes: Sequence[str] | None = None,
        stored_split: StoredSplit | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if resize not in images.POLICIES:
            raise DataError(f"data.resize={resize} is invalid: expected one of {', '.join(images.POLICIES)}")
        if size < 1:
            raise DataError(f"data.size={size} is invalid: expected an integer of at least 1")
        for key, count in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if count < 1:
                raise DataError(f"data.{key}={count} is invalid: expected an integer of at least 1")
        auto_workers(num_workers)
        self.source, self.size, self.resize = apply_edits(source, edits), size, resize
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.sampler, self.augment, self.num_workers = sampler or ShuffleSampler, augment, num_workers
        self.cache_config, self.split_config = cache, split
        self.stored_split = as_stored_split(stored_split)
        self._unedited = source  # the split is drawn over all samples, including those that `edits` leaves out
        self.repeat_after: int | None = None
        self.samples: list[Sample] = self.source.samples
        self.classes, self.labels = map_classes(self.source, classes)
        self.quarantine = Quarantine(self.samples, quarantine)
        self._may_lack_classes = classes is not None  # an evaluation set can lack some classes of the network
        self._pixels: Pixels | None = None
        self._opened = self._ready = False

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Settings that turn an image file into the input of the network."""
        return {"size": self.size, "resize": self.resize}

    def prepare_data(self) -> None:
        self.source.prepare()
        self._open()

    def setup(self, stage: str | None = None) -> None:
        """Open the pixels and quarantine broken images. The split is computed on first use, or here for stage "fit"."""
        if not self._ready:
            self.prepare_data()  # returns at once if a Trainer has called it before
            self.quarantine.add(self._pixels.broken if self._pixels is not None else {})
            self._ready = True
        if stage == "fit":
            _ = self.splits
            if isinstance(self.augment, Augment):
                self.augment.check(self.size)

    def _open(self) -> None:
        if self._opened:
            return
        if self.cache_config.cache != "off":
            self._pixels = open_pixels(
                *(self.source, self.size, self.resize, self.cache_config),
                workers=self._workers,
                progress=first_process(),
            )
        self._opened = True

    @property
    def _workers(self) -> int | None:
        return None if self.num_workers == "auto" else max(1, self.num_workers)

    @property
    def broken(self) -> dict[int, str]:
        """Row of `samples` -> reason why the image cannot be read. Without a cache: the broken images found so far."""
        return self.quarantine.broken

    @cached_property
    def rows(self) -> np.ndarray:
        """Rows of `samples` that are not known to be broken, (n,) int64."""
        self.setup()
        return np.setdiff1d(np.arange(len(self.samples)), np.fromiter(self.broken, np.int64, len(self.broken)))

    def read(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the pixels of some rows of `samples`, (n, S, S, 3) uint8, as in the batches of a loader.

        Raises:
            images.BrokenImage: An image cannot be read. With a cache, its pixels are grey instead.
        """
        if self._pixels is not None:
            return np.asarray(self._pixels.array[np.asarray(rows)])
        return np.stack([images.resize(self.source.read(row, self.size), self.size, self.resize) for row in rows])

    @cached_property
    def splits(self) -> Indices:
        """Rows of `samples` in train, val and test, (n,) int64 each, without broken images."""
        bits = np.where(self._bits == EARLIER, UNUSED, self._bits)
        chosen = {name: self._readable(bits & bit > 0) for name, bit in SPLIT_BITS.items()}
        if not self._may_lack_classes:
            check_classes(self.labels[self.rows], self.classes)
            self._warn(missing_class_notes(self.labels, self.classes, chosen))
        return chosen

    @cached_property
    def unseen(self) -> np.ndarray:
        """Rows of `samples`, (n,) int64, that are in neither train nor val of `stored_split`."""
        return self._readable(self.stored_bits & (TRAIN | VAL) == 0)

    def _readable(self, mask: np.ndarray) -> np.ndarray:
        return self.rows[mask[self._unedited_rows[self.rows]]]

    @cached_property
    def _unedited_rows(self) -> np.ndarray:
        """Row in the unedited source of each of `samples`, (N,) int64."""
        source = self.source
        return np.asarray(source.rows if isinstance(source, EditedSource) else range(len(self.samples)), np.int64)

    @cached_property
    def sample_keys(self) -> np.ndarray:
        """Key of each sample of the unedited source, (M,) uint64. See `stored_split.sample_keys`."""
        self.setup()
        folder = pixel_dir(self.cache_config.cache_dir)
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        return sample_keys(DigestIndex(self._unedited, folder), self._workers, first_process())

    @cached_property
    def stored_bits(self) -> np.ndarray:
        """Split bits of the unedited source's samples in `stored_split`, (M,) uint8; `NEW` (0) for images not in it."""
        if self.stored_split is None:
            return np.zeros(len(self._unedited.samples), np.uint8)
        return self.stored_split.look_up(self.sample_keys)

    @property
    def is_training_data(self) -> bool:
        """Whether the images are those of the run of `stored_split`, wherever they are stored now."""
        return self.stored_split is not None and self.stored_split.is_same_data(self.stored_bits)

    @property
    def split_used(self) -> StoredSplit:
        """The split of this run, for its checkpoint."""
        return StoredSplit(self.sample_keys, self._bits)

    def trained_on(self, other: StoredSplit) -> dict[str, int]:
        """Count the images of val and test that are training images of another split."""
        trained = other.look_up(self.sample_keys)[self._unedited_rows] & TRAIN > 0
        return {name: int(trained[self.splits[name]].sum()) for name in ("val", "test")}

    @cached_property
    def _bits(self) -> np.ndarray:
        """Split bits of each sample of the unedited source, (M,) uint8, including broken and excluded images."""
        self.setup()
        if not self.is_training_data:
            chosen, notes = self._draw(self.split_config, None)
            self._warn(notes)
            drawn, known = split_bits(chosen, len(self._unedited.samples)), self.stored_bits
            return np.where(known == NEW, drawn, known)
        bits = self.stored_bits.copy()
        assert self.stored_split is not None
        missing, new = self.stored_split.missing(self.sample_keys), int((bits == NEW).sum())
        if self.split_config.new_images == "train":
            bits = self._with_class_fraction(self._bits_of_new(bits) if new else bits)
        if missing or new:
            trained = int((self.stored_bits[bits & TRAIN > 0] == NEW).sum())
            added = self.split_config.new_images == "train"
            use = f"{trained} of them are used for training" if added else "left out"
            path = self._unedited.samples[int((self.stored_bits == NEW).argmax())].path
            first = f", the first {path:.100}" if new else ""
            count = self.stored_split.count
            self._warn(
                [
                    f"the split of the checkpoint is used: {count - missing} of its {count} images are present, "
                    f"{missing} are missing; {new} images are new" + (f" ({use}{first})" if new else "")
                ]
            )
        return bits

    def _bits_of_new(self, bits: np.ndarray) -> np.ndarray:
        """Split bits (M,) uint8 with new images in train, except for those of a group in val or test."""
        groups = self.split_config.groups(self._unedited.samples, self._duplicate_ids(self.split_config))
        bits = bits.copy()
        held_out = {int(group): int(bit) for group, bit in zip(groups, bits, strict=True) if bit & (VAL | TEST)}
        for row in np.flatnonzero(bits == NEW):
            bits[row] = held_out.get(int(groups[row]), TRAIN)
        return bits

    def _with_class_fraction(self, bits: np.ndarray) -> np.ndarray:
        """Split bits (M,) uint8 with the `class_fraction` of this run in place of that of the stored split."""
        bits = bits.copy()
        rows = np.flatnonzero(bits & (TRAIN | UNUSED))
        kept = apply_class_fraction(
            rows, self._unedited_labels, self.classes, self.split_config.class_fraction or {}, self.split_config.seed
        )
        bits[rows] = UNUSED
        bits[kept] = TRAIN
        return bits

    def split_with(self, config: SplitConfig, duplicate_ids: np.ndarray | None = None) -> tuple[Indices, list[str]]:
        """Split `samples` with other settings.

        Args:
            config: The settings.
            duplicate_ids: (N,) int64, equal for duplicates; None computes them if they are needed.

        Returns:
            Rows of `samples` in each split, and messages for the user.
        """
        if duplicate_ids is not None:
            unedited_ids = np.arange(len(self._unedited.samples)) + duplicate_ids.max(initial=0) + 1
            unedited_ids[self._unedited_rows] = duplicate_ids
            duplicate_ids = unedited_ids
        chosen, notes = self._draw(config, duplicate_ids)
        bits = split_bits(chosen, len(self._unedited.samples))
        return {name: self._readable(bits & bit > 0) for name, bit in SPLIT_BITS.items()}, notes

    def _draw(self, config: SplitConfig, duplicate_ids: np.ndarray | None) -> tuple[Indices, list[str]]:
        """Split the unedited source: rows of each split, and messages for the user."""
        labels, classes = self._unedited_labels, self.classes
        if self._may_lack_classes:
            present, labels = np.unique(labels, return_inverse=True)
            classes = [classes[label] for label in present]
        duplicate_ids = self._duplicate_ids(config) if duplicate_ids is None else duplicate_ids
        return config.split(self._unedited.samples, labels, classes, duplicate_ids)

    @cached_property
    def _unedited_labels(self) -> np.ndarray:
        """Labels of the unedited source, (M,) int64. The split uses them, so that `relabel` does not change it."""
        return map_classes(self._unedited, self.classes)[1]

    def _duplicate_ids(self, config: SplitConfig) -> np.ndarray | None:
        if not config.by_similarity:
            return None
        return duplicate_groups(self._unedited, self.cache_config, first_process())

    def _warn(self, notes: Sequence[str]) -> None:
        for note in notes if first_process() else ():
            log.warning("data: %s", note)

    @property
    def class_counts(self) -> list[int]:
        """Number of training images of each class."""
        return np.bincount(self.labels[self.splits["train"]], minlength=len(self.classes)).tolist()

    @property
    def drawn_counts(self) -> list[int]:
        """Expected number of images of each class that the sampler draws in an epoch. Objectives correct for it."""
        labels = self.labels[self.splits["train"]]
        weights = getattr(self.sampler(labels, seed=self.split_config.seed), "weights", None)
        if weights is None:
            return self.class_counts
        shares = np.bincount(labels, weights=weights, minlength=len(self.classes)) / np.sum(weights)
        return np.rint(shares * len(labels)).astype(int).tolist()

    def train_dataloader(self) -> Loader:
        rows, (rank, world_size) = self.splits["train"], self._rank_and_world_size()
        sampler = self.sampler(self.labels[rows], seed=self.split_config.seed, rank=rank, world_size=world_size)
        sampler.repeat_after = self.repeat_after
        draw = self.augment.draw if self.augment is not None else None
        # drop an incomplete last batch: batch norm fails or is noisy on one or two images
        return self._load(rows, sampler, self.batch_size, drop_last=True, draw=draw)

    def val_dataloader(self) -> Loader:
        return self._in_order(self.splits["val"], *self._rank_and_world_size())

    def test_dataloader(self) -> Loader:
        return self._in_order(self.splits["test"], *self._rank_and_world_size())

    def predict_dataloader(self) -> Loader:
        return self.test_dataloader()

    def loader(self, split: str, shuffle: bool = False) -> Loader:
        """Return a loader that yields each image of a split once, without augmentation, in one process.

        Args:
            split: "train", "val", "test", "unseen" (see `unseen`) or "all".
            shuffle: Shuffle the images and use batches of `batch_size`. By default, the order is that of `samples`,
                which may be sorted by class, and batches have `eval_batch_size` images.

        Raises:
            DataError: The split is unknown.
        """
        self.setup()
        if split in ("all", "unseen"):
            return self._in_order(self.rows if split == "all" else self.unseen)
        if split not in SPLIT_BITS:
            raise DataError(f"split={split} is invalid: expected train, val, test, unseen or all")
        rows = self.splits[split]
        if shuffle:
            return self._load(rows, ShuffleSampler(self.labels[rows], seed=self.split_config.seed), self.batch_size)
        return self._in_order(rows)

    def _in_order(self, rows: np.ndarray, rank: int = 0, world_size: int = 1) -> Loader:
        sampler = OrderedSampler(self.labels[rows], rank=rank, world_size=world_size)
        return self._load(rows, sampler, self.eval_batch_size)

    def _load(self, rows: np.ndarray, sampler: Sampler, batch_size: int, **options: Any) -> Loader:
        if self._pixels is not None:
            return PixelLoader(self._pixels.array, self.labels, rows, sampler, batch_size, **options)
        return DecodingLoader(
            self.source, self.size, self.resize, self.labels, rows, sampler, batch_size,
            num_workers=self.num_workers, on_broken=lambda row, reason: self.quarantine.add({row: reason}), **options,
        )  # fmt: skip

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Convert and augment a batch on its device. No operation synchronises with the device."""
        pixels, targets, indices, draws = batch
        pixels = pixels.permute(0, 3, 1, 2)  # a view: channels_last stores NHWC
        if draws is None or self.augment is None:
            return Batch(pixels.to(torch.float32).div_(255), targets, indices)
        pixels, targets = self.augment.mix(self.augment(pixels, draws), targets, len(self.classes), draws)
        return Batch(pixels, targets, indices)
