"""Teachers of a distillation: trained networks whose answers a student learns, and that themselves learn nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.backbones.backbone import Backbone
from lightning_modules.backbones.fold_batchnorm import fold_batchnorm
from lightning_modules.checkpoint import RECORD, build_net, read_checkpoint
from litesort.errors import ModelError


@dataclass(slots=True)
class Teacher:
    """One trained network, whatever runs it.

    Attributes:
        answer: Takes (B, 3, size, size) float photos in [0, 1] on any device, returns (B, len(classes)) float logits.
        classes: Names, in the order of the logits.
        size: Side of the photos that it was trained on, px.
        name: Where it came from, for messages.
        net: The network, where it is one of torch; it follows the photos to their device.
    """

    answer: Callable[[Tensor], Tensor]
    classes: list[str]
    size: int | None
    name: str
    net: Backbone | None = None


class TeacherEnsemble:
    """Answer photos with the mean of one or several trained networks, without gradients.

    No nn.Module, so that state_dict, optimiser and weight averaging never see it; a copy of an objective shares it.

    Args:
        members: The networks.
    """

    def __init__(self, members: Sequence[Teacher]) -> None:
        self.members = list(members)
        self._orders: list[list[int] | None] = [None] * len(self.members)
        self._device: torch.device | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "TeacherEnsemble":
        return self

    def match(self, classes: Sequence[str]) -> None:
        """Answer in the order of `classes` from now on; ModelError where a member knows other ones."""
        for i, member in enumerate(self.members):
            if missing := [name for name in classes if name not in member.classes]:
                raise ModelError(
                    f"teacher={member.name} does not know the class {', '.join(missing)}: it was trained on "
                    f"{', '.join(member.classes)}; give a teacher of the same classes"
                )
            if extra := [name for name in member.classes if name not in classes]:
                raise ModelError(
                    f"teacher={member.name} knows the class {', '.join(extra)}, which the data has not: "
                    "give a teacher of the same classes"
                )
            order = [member.classes.index(name) for name in classes]
            self._orders[i] = None if order == sorted(order) else order

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) float in [0, 1] -> (B, C) float32 logits: the mean of the members' log-probabilities.

        Photos of another size than a member's own are resized for it, on their device.
        """
        if images.device != self._device:
            for member in self.members:
                if member.net is not None:
                    member.net.to(images.device)
            self._device = images.device
        answers = []
        for member, order in zip(self.members, self._orders, strict=True):
            logits = member.answer(resized(images, member.size)).float().log_softmax(dim=1)
            answers.append(logits if order is None else logits[:, order])
        return torch.stack(answers).mean(dim=0) if len(answers) > 1 else answers[0]


def resized(images: Tensor, size: int | None) -> Tensor:
    """(B, 3, H, W) float photos as (B, 3, size, size), channels_last; as they are where they fit already."""
    if size is not None and images.shape[2:] != (size, size):
        smaller = size < min(images.shape[2:])
        images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=smaller)
    return images.contiguous(memory_format=torch.channels_last)


Opened = tuple[Callable[[Tensor], Tensor], list[str], int]  # what answers, its classes, the side of its photos


def load_teacher(
    paths: str | Sequence[str] | None, open_other: Callable[[str], Opened] | None = None
) -> TeacherEnsemble:
    """Rebuild a teacher from a checkpoint, or several, in evaluation mode and frozen.

    paths: the top-level key `teacher`: a file, or a list of them; open_other: opens what is not a checkpoint; see
    `Teacher` for what it returns.
    ModelError for none, and for a file that is missing or not litesort's.
    """
    names = [paths] if isinstance(paths, str) else list(paths or [])
    if not names:
        raise ModelError("teacher is not given, and this objective learns from one: teacher=PATH/best.ckpt")
    if len(set(names)) < len(names):
        raise ModelError(f"teacher={','.join(names)} names one file twice: give each once")
    return TeacherEnsemble([_open(str(name), open_other) for name in names])


def _open(path: str, open_other: Callable[[str], Opened] | None) -> Teacher:
    if not Path(path).is_file():
        kind = "is a folder" if Path(path).is_dir() else "does not exist"
        raise ModelError(f"teacher={path} {kind}: give the file of a trained network, e.g. teacher=runs/.../best.ckpt")
    if open_other is not None and Path(path).suffix != ".ckpt":
        answer, classes, size = open_other(path)
        return Teacher(answer, classes, size, path)
    checkpoint = read_checkpoint(path)
    net = fold_batchnorm(build_net(checkpoint)).requires_grad_(False).to(memory_format=torch.channels_last)
    record = checkpoint[RECORD]
    return Teacher(net, list(record["classes"]), record["preprocessing"].get("size"), path, net)
