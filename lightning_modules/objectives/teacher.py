"""Frozen teachers for knowledge distillation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.backbones.backbone import Backbone
from lightning_modules.backbones.fold_batchnorm import fold_batchnorm
from lightning_modules.checkpoint import MODEL_CARD, build_net, read_checkpoint
from litesort.errors import ModelError


@dataclass(slots=True)
class Teacher:
    """One trained network: a checkpoint, or an exported file with its runtime.

    Attributes:
        predict: Maps (B, 3, size, size) float images in [0, 1] on any device to (B, len(classes)) float logits.
        classes: Class names, in the order of the logits.
        size: Side of the input images in px; None for any size.
        name: Path of the file, for error messages.
        net: The PyTorch network, None for an exported file. It is moved to the device of the images.
    """

    predict: Callable[[Tensor], Tensor]
    classes: list[str]
    size: int | None
    name: str
    net: Backbone | None = None


class TeacherEnsemble:
    """Average the log-probabilities of one or several teachers, without gradients.

    The ensemble is not an nn.Module: it stays out of state_dict, optimiser and weight averaging. Copies of an
    objective share it.

    Args:
        members: The teachers.
    """

    def __init__(self, members: Sequence[Teacher]) -> None:
        self.members = list(members)
        self._orders: list[list[int] | None] = [None] * len(self.members)
        self._device: torch.device | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "TeacherEnsemble":
        return self

    def match(self, classes: Sequence[str]) -> None:
        """Set the order of the logits.

        Args:
            classes: Class names of the data, in the order of the student's logits.

        Raises:
            ModelError: A teacher was trained on other classes.
        """
        for i, member in enumerate(self.members):
            if missing := [name for name in classes if name not in member.classes]:
                raise ModelError(
                    f"teacher={member.name} has no class {', '.join(missing)}: it was trained on "
                    f"{', '.join(member.classes)}; give a teacher of the same classes"
                )
            if extra := [name for name in member.classes if name not in classes]:
                raise ModelError(
                    f"teacher={member.name} was trained on the additional class {', '.join(extra)}: "
                    "give a teacher of the same classes"
                )
            order = [member.classes.index(name) for name in classes]
            self._orders[i] = None if order == sorted(order) else order

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Predict a batch.

        Args:
            images: (B, 3, H, W) float in [0, 1]. They are resized on their device to the input size of each teacher.

        Returns:
            (B, C) float32 logits: mean of the log-probabilities of the teachers.
        """
        if images.device != self._device:
            for member in self.members:
                if member.net is not None:
                    member.net.to(images.device)
            self._device = images.device
        outputs = []
        for member, order in zip(self.members, self._orders, strict=True):
            logits = member.predict(resized(images, member.size)).float().log_softmax(dim=1)
            outputs.append(logits if order is None else logits[:, order])
        return torch.stack(outputs).mean(dim=0) if len(outputs) > 1 else outputs[0]


def resized(images: Tensor, size: int | None) -> Tensor:
    """Resize (B, 3, H, W) float images to (B, 3, size, size), channels_last; None keeps the size."""
    if size is not None and images.shape[2:] != (size, size):
        smaller = size < min(images.shape[2:])
        images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=smaller)
    return images.contiguous(memory_format=torch.channels_last)


OpenedFile = tuple[Callable[[Tensor], Tensor], list[str], int]  # predict function, classes, input size in px


def load_teacher(
    paths: str | Sequence[str] | None, open_other: Callable[[str], OpenedFile] | None = None
) -> TeacherEnsemble:
    """Load one or several frozen teachers in evaluation mode.

    Args:
        paths: One file or a list of files (the top-level key `teacher`).
        open_other: Opens a file that is not a checkpoint, and returns its predict function, classes and input size;
            see `Teacher`.

    Returns:
        The teachers as an ensemble.

    Raises:
        ModelError: `paths` is empty or repeats a file, or a file is missing or was not written by litesort.
    """
    names = [paths] if isinstance(paths, str) else list(paths or [])
    if not names:
        raise ModelError("teacher is not given, and this objective needs one: teacher=PATH/best.ckpt")
    if len(set(names)) < len(names):
        raise ModelError(f"teacher={','.join(names)} names one file twice: give each once")
    return TeacherEnsemble([_open(str(name), open_other) for name in names])


def _open(path: str, open_other: Callable[[str], OpenedFile] | None) -> Teacher:
    if not Path(path).is_file():
        kind = "is a folder" if Path(path).is_dir() else "does not exist"
        raise ModelError(f"teacher={path} {kind}: give the file of a trained network, e.g. teacher=runs/.../best.ckpt")
    if open_other is not None and Path(path).suffix != ".ckpt":
        predict, classes, size = open_other(path)
        return Teacher(predict, classes, size, path)
    checkpoint = read_checkpoint(path, "teacher")
    net = (
        fold_batchnorm(build_net(checkpoint, f"teacher={path}"))
        .requires_grad_(False)
        .to(memory_format=torch.channels_last)
    )
    card = checkpoint[MODEL_CARD]
    return Teacher(net, list(card["classes"]), card["preprocessing"].get("size"), path, net)
