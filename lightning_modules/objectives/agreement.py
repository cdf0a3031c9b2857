"""How good a teacher is on the photos that its student is evaluated on, and how often both agree."""

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix


class Agreement(nn.Module):
    """Teacher's macro F1 and the share of photos on which student and teacher choose the same class.

    A step only keeps three rows of labels on the device; all is counted once an epoch, over all ranks.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.teacher = MulticlassConfusionMatrix(num_classes, validate_args=False)
        self.both = MulticlassConfusionMatrix(num_classes, validate_args=False)
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []

    def update(self, student: Tensor, teacher: Tensor, targets: Tensor) -> None:
        """student, teacher: (B, C) float logits; targets: (B,) int64."""
        self._pending.append((student.detach().argmax(dim=1), teacher.argmax(dim=1), targets))

    def compute(self) -> dict[str, Tensor]:
        """Scalars "teacher_f1_macro", over the classes that have photos, and "agreement"; both in [0, 1]."""
        if self._pending:
            student, teacher, targets = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
            self._pending = []
            self.teacher.update(teacher, targets)
            self.both.update(student, teacher)
        counts, both = self.teacher.compute(), self.both.compute()
        support, answered, right = counts.sum(dim=1), counts.sum(dim=0), counts.diagonal()
        f1 = 2 * right / (support + answered).clamp_min(1)
        present = (support > 0).float()  # counts are integers: no float64, which MPS lacks
        return {
            "teacher_f1_macro": (f1 * present).sum() / present.sum(),
            "agreement": both.trace() / both.sum(),
        }

    def reset(self) -> None:
        """Forget the epoch."""
        self._pending = []
        self.teacher.reset()
        self.both.reset()
