"""Metrics of a distillation: macro F1 of the teacher, and agreement of student and teacher."""

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix


class Agreement(nn.Module):
    """Compute the macro F1 of the teacher, and the fraction of images with the same student and teacher prediction.

    `update` only stores class indices on the device. `compute` counts them once per epoch, over all ranks.

    Args:
        num_classes: Number of classes C.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.labels_teacher = MulticlassConfusionMatrix(num_classes, validate_args=False)
        self.teacher_student = MulticlassConfusionMatrix(num_classes, validate_args=False)
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []

    def update(self, student: Tensor, teacher: Tensor, targets: Tensor) -> None:
        """Store the predictions of one batch.

        Args:
            student: (B, C) float, logits.
            teacher: (B, C) float, logits.
            targets: (B,) int64, true classes.
        """
        self._pending.append((student.detach().argmax(dim=1), teacher.argmax(dim=1), targets))

    def compute(self) -> dict[str, Tensor]:
        """Compute the metrics of the epoch.

        Returns:
            Scalars in [0, 1]: "teacher_f1_macro" (mean over the classes that have images) and "agreement".
        """
        if self._pending:
            student, teacher, targets = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
            self._pending = []
            self.labels_teacher.update(teacher, targets)
            self.teacher_student.update(student, teacher)
        counts, pairs = self.labels_teacher.compute(), self.teacher_student.compute()
        support, predicted, correct = counts.sum(dim=1), counts.sum(dim=0), counts.diagonal()
        f1 = 2 * correct / (support + predicted).clamp_min(1)
        present = (support > 0).float()  # float32, because MPS has no float64
        return {
            "teacher_f1_macro": (f1 * present).sum() / present.sum(),
            "agreement": pairs.trace() / pairs.sum(),
        }

    def reset(self) -> None:
        """Discard the counts of the epoch."""
        self._pending = []
        self.labels_teacher.reset()
        self.teacher_student.reset()
