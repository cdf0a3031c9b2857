"""Origin of a split: a run uses the split of the checkpoint that it resumes, starts from or is distilled from."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig

from litesort.errors import DataError, DeploymentError, ModelError

if TYPE_CHECKING:
    from datamodules.datamodule import ImageDataModule
    from datamodules.splits.stored_split import StoredSplit

log = logging.getLogger(__name__)

# Settings that define another split. If one is on the command line, the split of the checkpoint is not used.
SPLIT_SETTINGS = ("seed", "fold", "folds", "group_by", "group_block", "val_fraction", "test_fraction")


@dataclass(frozen=True)
class SplitOrigin:
    """A trained network that a run starts from or is distilled from.

    Attributes:
        key: Setting that names the network: ckpt, ckpt_init, model.weights or teacher.
        path: File of the network.
        split: Split of its training.
    """

    key: str
    path: str
    split: "StoredSplit"


def split_origins(cfg: DictConfig) -> list[SplitOrigin]:
    """Return the checkpoints of a config that store a split. The run uses the split of the first one."""
    from datamodules.splits.stored_split import StoredSplit

    teachers = list(cfg.teacher) if isinstance(cfg.teacher, ListConfig) else [cfg.teacher]
    named = [("ckpt", cfg.ckpt), ("ckpt_init", cfg.ckpt_init), ("model.weights", cfg.model.get("weights"))]
    found = []
    for key, path in [*named, *(("teacher", path) for path in teachers)]:
        packed = _packed_split(str(path), key) if path and Path(str(path)).is_file() else None
        if packed is not None:
            found.append(SplitOrigin(key, str(path), StoredSplit.unpack(packed)))
    return found


def _packed_split(path: str, key: str) -> Any:
    from deployment.formats import find_format
    from lightning_modules.checkpoint import read_checkpoint

    try:
        if (exported := find_format(path)) is not None:
            return exported.load(Path(path), threads=None).card.get("split")
        return read_checkpoint(path, key)["litesort"].get("split")
    except (ModelError, DeploymentError):
        if key in ("ckpt", "ckpt_init"):
            raise
        return None  # plain weights store no split; an unreadable teacher is refused when it is opened


def inherited_split(origins: Sequence[SplitOrigin], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of the data module that keep the split of the first origin.

    The result is empty if there is no origin, or if the command line defines another split.

    Args:
        origins: The result of `split_origins`.
        overrides: Overrides of the command line, `key=value`.
    """
    from datamodules.quarantine import first_process

    if not origins or (origins[0].key != "ckpt" and split_settings(overrides)):
        return {}
    key, path = origins[0].key, origins[0].path
    if key != "ckpt" and first_process():
        log.info("data: the split of %s=%s is used; a split setting on the command line draws another", key, path)
    policy = "exclude" if key == "ckpt" else "train"
    return {"stored_split": origins[0].split, "new_images": policy}


def split_settings(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that define another split.

    >>> split_settings(["data.fold=1", "seed=2", "+data.group_by=x"])
    ['data.fold', 'data.group_by']
    """
    keys = [override.partition("=")[0].lstrip("+~") for override in overrides]
    return [key for key in keys if key in {f"data.{name}" for name in SPLIT_SETTINGS}]


def check_overlap(
    data: "ImageDataModule", origins: Sequence[SplitOrigin], overrides: Sequence[str], strict: bool = False
) -> None:
    """Compare the val and test images of a run with the training images of its origins.

    An overlap with the origin of the weights is an error. An overlap with a teacher is a warning.

    Args:
        data: The data module, with its split.
        origins: The result of `split_origins`.
        overrides: Overrides of the command line, `key=value`.
        strict: Whether an overlap with a teacher is an error.

    Raises:
        ModelError: The images overlap.
        DataError: A resumed run has other images.
    """
    for origin in origins:
        if origin.key == "ckpt":
            if not data.is_training_data:
                raise DataError(
                    f"ckpt={origin.path} was trained on other images than these: give data.root=FOLDER of its own, or "
                    "start a new run with ckpt_init"
                )
            continue
        counts = data.trained_on(origin.split)
        if not any(counts.values()):
            continue
        parts = " and ".join(f"{counts[name]} of {len(data.splits[name])} {name} images" for name in ("val", "test"))
        given = ", ".join(split_settings(overrides))
        hint = f"leave out {given}" if given else f"give ckpt_init or teacher={origin.path} alone"
        line = f"{origin.key}={origin.path} was trained on {parts}: {hint}, so that its split is used"
        if origin.key != "teacher" or strict:
            raise ModelError(line)
        log.warning("%s (strict=true makes this an error)", line)


def split_record(data: "ImageDataModule", origins: Sequence[SplitOrigin]) -> dict[str, Any]:
    """Return the split as plain data for the checkpoint of the run.

    A resumed run keeps its split. A run that starts from other weights adds the training images of these weights.
    """
    if origins and origins[0].key == "ckpt":
        return origins[0].split.pack()
    split = data.split_used
    for origin in origins:
        if origin.key in ("ckpt_init", "model.weights"):
            split = split.with_earlier_training(origin.split)
    return split.pack()


def evaluated_split(data: "ImageDataModule", wanted: str, other: bool) -> str:
    """Return the split to evaluate. `auto` is test for the data set of the training, else unseen.

    Args:
        data: The data module, with the split of the checkpoint.
        wanted: train, val, test, unseen, all or auto.
        other: Whether the command line gives other data.

    Raises:
        DataError: All images are training or validation images of the checkpoint.
    """
    if wanted != "auto":
        return wanted
    if data.stored_split is None:
        if other:
            log.warning("data: the checkpoint stores no split, so its training images cannot be left out")
        return "all" if other else "test"
    if data.is_training_data:
        return "test"
    left_out = len(data.rows) - len(data.unseen)
    if not len(data.unseen):
        raise DataError(
            f"data: all {left_out} images are training or validation images of the checkpoint: give others, or "
            "split=all to evaluate on them anyway"
        )
    if left_out:
        log.warning(
            "data: %d of these %d images are training or validation images of the checkpoint: they are left out",
            left_out,
            len(data.rows),
        )
    return "unseen"
