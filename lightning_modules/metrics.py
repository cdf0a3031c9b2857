"""Evaluation metrics: F1, accuracy, AUROC, calibration error and confusion matrix."""

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

# Number of rows per update of torchmetrics. An update takes milliseconds and synchronises with the device.
_UPDATE_ROWS = 4096


class StageMetrics(nn.Module):
    """Compute macro F1, F1 per class, accuracy, AUROC, calibration error (ECE) and confusion matrix of one stage.

    A class without images in the stage has no F1: its key is omitted, and macro F1 and macro AUROC are means over the
    other classes. An image that is predicted as such a class still counts as a false negative of its true class.

    Args:
        classes: Class names, in the order of the logits.
        calibration_bins: Number of bins of the ECE.
        over_ranks: Whether `compute` synchronises over the processes of a distributed run.

    Attributes:
        confusion: (C, C) int64 CPU tensor of the last computed epoch; rows are true classes, columns are predictions.
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
        """Store the outputs of one batch, without computation or synchronisation in most steps.

        Args:
            logits: (B, C) float, unnormalised.
            targets: (B,) int64, true classes.
        """
        self._pending.append((logits.detach(), targets))
        self._rows += len(targets)
        if self._rows >= _UPDATE_ROWS:
            self._flush()

    def compute(self) -> dict[str, Tensor]:
        """Compute the metrics of the epoch over all ranks.

        Returns:
            Scalars in [0, 1]: "f1_macro", "f1/<class>", "accuracy_micro", "auroc_macro" and "ece". "auroc_macro" is
            missing if only one class has images.
        """
        self._flush()
        with warnings.catch_warnings():  # classes without images are omitted below
            warnings.filterwarnings("ignore", "No (positive|negative) samples in targets")
            values = self.collection.compute()
        self.confusion = values["confusion"].cpu().long()
        support = self.confusion.sum(dim=1)
        present = (support > 0).nonzero().flatten().tolist()
        result = {"f1_macro": values["f1"][present].mean()}
        result |= {f"f1/{self.classes[i]}": values["f1"][i] for i in present}
        result["accuracy_micro"] = values["accuracy"]
        if len(present) > 1:  # a ROC curve needs positive and negative images
            result["auroc_macro"] = values["auroc"][present].mean()
        result["ece"] = values["ece"]
        return result

    def reset(self) -> None:
        """Discard the outputs of the epoch. `confusion` stays until the next `compute`."""
        self._pending, self._rows = [], 0
        self.collection.reset()

    def _flush(self) -> None:
        if self._pending:
            logits, targets = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
            self._pending, self._rows = [], 0
            self.add(logits.float().softmax(dim=1), targets)

    def add(self, probabilities: Tensor, targets: Tensor) -> None:
        """Update the metrics with probabilities.

        Args:
            probabilities: (B, C) float32 in [0, 1].
            targets: (B,) int64, true classes.
        """
        self.collection.update(probabilities, targets)


def evaluate(probabilities: np.ndarray, targets: np.ndarray, classes: list[str]) -> dict[str, float]:
    """Compute the metrics of stored predictions. The results equal those of a test of the classifier.

    Args:
        probabilities: (N, C) float in [0, 1].
        targets: (N,) int, true classes.
        classes: Class names, in the order of the columns.

    Returns:
        The values of `StageMetrics.compute` as numbers.
    """
    metrics = StageMetrics(classes, over_ranks=False)  # after DDP training the other processes have ended
    metrics.add(torch.from_numpy(probabilities).float(), torch.from_numpy(targets))
    return {name: float(value) for name, value in metrics.compute().items()}
