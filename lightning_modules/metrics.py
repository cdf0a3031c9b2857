"""What a stage is evaluated by, every `average=` written out."""

import warnings

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)

# torchmetrics costs milliseconds an update, and waits for the device in its bincounts: feed it this many rows at once.
_ROWS_AT_ONCE = 4096


class StageMetrics(nn.Module):
    """Macro F1, F1 a class, accuracy, AUROC, calibration and confusion of one stage; a step only appends two tensors.

    A class without a photo in the stage has no F1: its key is left out, and macro F1 and macro AUROC are means over the
    classes that have photos. (A photo wrongly given to such a class still counts, as a miss of its true class.)

    Attributes: confusion, (C, C) int64 CPU tensor, rows = truth, columns = prediction, of the last computed epoch.
    """

    confusion: Tensor | None

    def __init__(self, classes: list[str], calibration_bins: int = 15, over_ranks: bool = True) -> None:
        super().__init__()
        c = len(classes)
        self.classes = classes
        # compute_groups=False: grouping compares states on the host
        self.collection = MetricCollection(
            {
                "f1": MulticlassF1Score(c, average="none", validate_args=False, sync_on_compute=over_ranks),
                "accuracy": MulticlassAccuracy(c, average="micro", validate_args=False, sync_on_compute=over_ranks),
                "auroc": MulticlassAUROC(
                    c, average="none", thresholds=None, validate_args=False, sync_on_compute=over_ranks
                ),
                "ece": MulticlassCalibrationError(
                    c, n_bins=calibration_bins, norm="l1", validate_args=False, sync_on_compute=over_ranks
                ),
                "confusion": MulticlassConfusionMatrix(c, validate_args=False, sync_on_compute=over_ranks),
            },
            compute_groups=False,
        )
        self.confusion = None
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._rows = 0

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """logits: (B, C) float, unnormalised; targets: (B,) int64. Nothing is computed or waited for here."""
        self._pending.append((logits.detach(), targets))
        self._rows += len(targets)
        if self._rows >= _ROWS_AT_ONCE:
            self._flush()

    def compute(self) -> dict[str, Tensor]:
        """Scalars by name ("f1_macro", "f1/<class>", "accuracy_micro", "auroc_macro", "ece"), over all ranks."""
        self._flush()
        with warnings.catch_warnings():  # of classes without images, which are left out below
            warnings.filterwarnings("ignore", "No (positive|negative) samples in targets")
            values = self.collection.compute()
        self.confusion = values["confusion"].cpu().long()
        support = self.confusion.sum(dim=1)
        present = (support > 0).nonzero().flatten().tolist()
        result = {"f1_macro": values["f1"][present].mean()}
        result |= {f"f1/{self.classes[i]}": values["f1"][i] for i in present}
        result["accuracy_micro"] = values["accuracy"]
        if len(present) > 1:  # a class needs photos and non-photos to have a ROC curve
            result["auroc_macro"] = values["auroc"][present].mean()
        result["ece"] = values["ece"]
        return result

    def reset(self) -> None:
        """Forget the epoch; `confusion` stays readable until the next compute."""
        self._pending, self._rows = [], 0
        self.collection.reset()

    def _flush(self) -> None:
        if self._pending:
            logits, targets = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
            self._pending, self._rows = [], 0
            self.add(logits.float().softmax(dim=1), targets)

    def add(self, probabilities: Tensor, targets: Tensor) -> None:
        """Count answers that are probabilities already: (B, C) float32 in [0, 1], with targets (B,) int64."""
        self.collection.update(probabilities, targets)


def evaluate(probabilities: np.ndarray, targets: np.ndarray, classes: list[str]) -> dict[str, float]:
    """Compute the metrics of predictions that are there already, as a test of the classifier would.

    probabilities: (N, C) float in [0, 1]; targets: (N,) int. Returns the values of `StageMetrics.compute` as numbers.
    """
    metrics = StageMetrics(classes, over_ranks=False)  # after DDP training the other ranks are gone
    metrics.add(torch.from_numpy(probabilities).float(), torch.from_numpy(targets))
    return {name: float(value) for name, value in metrics.compute().items()}
