"""Pictures and tables of a run for W&B, and its first pictures for TensorBoard and MLflow too."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import Logger

from loggers.images import log_picture, takes_pictures
from loggers.wandb import find_run


class WandbMedia(pl.Callback):
    """Log the first training batch, as the network sees it, as one picture: `preview/augmented`.

    Args:
        preview: Largest number of photos in it, 0 for no picture.
    """

    def __init__(self, preview: int = 32) -> None:
        self.preview = preview
        self._done = False

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._done or not self.preview or trainer.current_epoch > 0:
            return
        self._done = True
        run = find_run(trainer.loggers)
        if run is None and not any(map(takes_pictures, trainer.loggers)):
            return
        images = batch[0][: self.preview].float().clamp(0, 1).mul(255).round().byte()
        picture = grid(images.permute(0, 2, 3, 1).cpu().numpy())
        log_picture(trainer.loggers, "preview/augmented", picture)
        if run is not None:
            import wandb

            run.log({"preview/augmented": wandb.Image(picture), "trainer/global_step": trainer.global_step})


def log_answers(
    loggers: Iterable[Logger],
    probabilities: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    files: Sequence[str],
    picture: Callable[[int], np.ndarray],
    split: str = "test",
    mistakes: int = 24,
    points: int = 100,
) -> None:
    """Log what a network answered: confusion matrix, table of classes, precision-recall curves, worst mistakes.

    Keys: `<split>/confusion_matrix`, `<split>/per_class` (precision, recall, F1, support), `<split>/pr_curves`,
    `<split>/mistakes` (pictures of the most confident wrong answers, the worst first).

    Args:
        loggers: The trainer's loggers.
        probabilities: (N, C) float, rows sum to 1.
        targets: (N,) int, true classes.
        classes: C names.
        files: N names of the photos.
        picture: Row -> (H, W, 3) uint8; called for mistakes only.
        split: What was evaluated.
        mistakes: Largest number of pictures.
        points: Largest number of points in a curve.
    """
    run = find_run(loggers)
    if run is None:
        return
    probabilities, targets, names = np.asarray(probabilities), np.asarray(targets), [str(name) for name in classes]
    run.log(
        {
            f"{split}/confusion_matrix": _confusion_matrix(probabilities, targets, names),
            f"{split}/per_class": _per_class(probabilities, targets, names),
            f"{split}/pr_curves": _curves(probabilities, targets, names, points),
            f"{split}/mistakes": _mistakes(probabilities, targets, names, files, picture, mistakes),
        }
    )


def grid(images: np.ndarray) -> np.ndarray:
    """Lay (N, H, W, 3) uint8 out as one picture (rows * H, columns * W, 3), black where there is none."""
    count, height, width, _ = images.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = int(np.ceil(count / columns))
    canvas = np.zeros((rows * columns, height, width, 3), np.uint8)
    canvas[:count] = images
    return canvas.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)


def thumbnail(image: np.ndarray, side: int = 256) -> np.ndarray:
    """Shrink (H, W, 3) uint8 so that its longer side is at most `side`; smaller ones stay as they are."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def precision_recall(scores: np.ndarray, positive: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute a precision-recall curve, thinned to at most `points` points.

    Args:
        scores: (N,) float, higher means more positive; N at least 1.
        positive: (N,) bool.
        points: Largest number of points, at least 2.

    Returns:
        recall, precision: (P,) float each, recall rising. A point for each distinct score, as scikit-learn draws it,
        without its last one at recall 0.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # equal scores are one threshold
    recall, precision = hits[last] / max(int(positive.sum()), 1), hits[last] / (last + 1)
    chosen = np.unique(np.linspace(0, len(last) - 1, points).round().astype(int))
    return recall[chosen], precision[chosen]


def _confusion_matrix(probabilities: np.ndarray, targets: np.ndarray, classes: list[str]) -> Any:
    import wandb

    return wandb.plot.confusion_matrix(
        y_true=targets.tolist(), preds=probabilities.argmax(1).tolist(), class_names=classes
    )


def _per_class(probabilities: np.ndarray, targets: np.ndarray, classes: list[str]) -> Any:
    import wandb

    answers = probabilities.argmax(1)
    table = wandb.Table(columns=["class", "precision", "recall", "f1", "support"])
    for index, name in enumerate(classes):
        truth, answer = targets == index, answers == index
        hits, true, given = int((truth & answer).sum()), int(truth.sum()), int(answer.sum())
        table.add_data(name, hits / max(given, 1), hits / max(true, 1), 2 * hits / max(true + given, 1), true)
    return table


def _curves(probabilities: np.ndarray, targets: np.ndarray, classes: list[str], points: int) -> Any:
    import wandb

    # wandb.plot.pr_curve would need pandas and scikit-learn.
    curves = [precision_recall(probabilities[:, c], targets == c, points) for c in range(len(classes))]
    return wandb.plot.line_series(
        xs=[recall.tolist() for recall, _ in curves],
        ys=[precision.tolist() for _, precision in curves],
        keys=classes,
        title="Precision against recall",
        xname="recall",
    )


def _mistakes(
    probabilities: np.ndarray,
    targets: np.ndarray,
    classes: list[str],
    files: Sequence[str],
    picture: Callable[[int], np.ndarray],
    count: int,
) -> Any:
    import wandb

    answers, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(answers != targets)
    table = wandb.Table(columns=["photo", "file", "label", "prediction", "confidence"])
    for row in wrong[np.argsort(-confidence[wrong], kind="stable")][:count].tolist():
        table.add_data(
            wandb.Image(thumbnail(picture(row))),
            str(files[row]),
            classes[int(targets[row])],
            classes[int(answers[row])],
            float(confidence[row]),
        )
    return table
