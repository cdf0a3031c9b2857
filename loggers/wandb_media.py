"""Images and tables of a run for W&B. The preview of the first batch also goes to TensorBoard and MLflow."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import Logger

from loggers.images import accepts_images, log_image
from loggers.wandb import find_run
from reports.mistakes import Mistake, worst_mistakes
from reports.per_class import ClassScores, confusion_counts, per_class, precision_recall


class WandbMedia(pl.Callback):
    """Log images of the first training batch before and after augmentation, as one image `preview/augmented`.

    Args:
        preview: Largest number of images in the preview; 0 turns it off.
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
        if run is None and not any(map(accepts_images, trainer.loggers)):
            return
        images = batch[0][: self.preview].float().clamp(0, 1).mul(255).round().byte()
        after = images.permute(0, 2, 3, 1).cpu().numpy()
        preview = grid(after)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if hasattr(data, "read"):
            before = data.read(batch[2][: self.preview].cpu().numpy())
            side = after.shape[1]  # progressive resizing shrinks batches
            small = [np.asarray(Image.fromarray(image).resize((side, side))) for image in before]
            preview = np.concatenate([grid(np.stack(small)), preview], axis=1)
        log_image(trainer.loggers, "preview/augmented", preview)
        if run is not None:
            import wandb

            run.log({"preview/augmented": wandb.Image(preview), "trainer/global_step": trainer.global_step})


def log_prediction_tables(
    loggers: Iterable[Logger],
    probabilities: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    files: Sequence[str],
    image: Callable[[int], np.ndarray],
    split: str = "test",
    mistakes: int = 24,
    points: int = 100,
) -> None:
    """Log predictions to W&B: confusion matrix, scores per class, precision-recall curves and the worst mistakes.

    Keys: `<split>/confusion_matrix`, `<split>/per_class` (precision, recall, F1, support), `<split>/pr_curves`,
    `<split>/mistakes` (images of the most confident wrong predictions, the most confident first).

    Args:
        loggers: Loggers of the trainer.
        probabilities: (N, C) float, rows sum to 1.
        targets: (N,) int, true classes.
        classes: (C,) names.
        files: (N,) names of the images.
        image: Row -> (H, W, 3) uint8. Called for mistakes only.
        split: Name of the evaluated split.
        mistakes: Largest number of mistakes.
        points: Largest number of points in a curve.
    """
    run = find_run(loggers)
    if run is None:
        return
    probabilities, targets, names = np.asarray(probabilities), np.asarray(targets), [str(name) for name in classes]
    counts = confusion_counts(targets, probabilities.argmax(1), len(names))
    run.log(
        {
            f"{split}/confusion_matrix": _confusion_matrix(probabilities, targets, names),
            f"{split}/per_class": _per_class_table(per_class(counts, names)),
            f"{split}/pr_curves": _curves(probabilities, targets, names, points),
            f"{split}/mistakes": _mistake_table(worst_mistakes(probabilities, targets, names, files, mistakes), image),
        }
    )


def grid(images: np.ndarray) -> np.ndarray:
    """Arrange (N, H, W, 3) uint8 images in one (rows * H, columns * W, 3) image; empty cells are black."""
    count, height, width, _ = images.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = int(np.ceil(count / columns))
    canvas = np.zeros((rows * columns, height, width, 3), np.uint8)
    canvas[:count] = images
    return canvas.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)


def thumbnail(image: np.ndarray, side: int = 256) -> np.ndarray:
    """Shrink (H, W, 3) uint8 until its longer side is at most `side`; smaller images are unchanged."""
    small = Image.fromarray(image)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(small)


def _confusion_matrix(probabilities: np.ndarray, targets: np.ndarray, classes: list[str]) -> Any:
    import wandb

    return wandb.plot.confusion_matrix(
        y_true=targets.tolist(), preds=probabilities.argmax(1).tolist(), class_names=classes
    )


def _per_class_table(scores: Sequence[ClassScores]) -> Any:
    import wandb

    table = wandb.Table(columns=["class", "precision", "recall", "f1", "support"])
    for row in scores:
        table.add_data(*row)
    return table


def _curves(probabilities: np.ndarray, targets: np.ndarray, classes: list[str], points: int) -> Any:
    import wandb

    # wandb.plot.pr_curve needs pandas and scikit-learn.
    curves = [precision_recall(probabilities[:, c], targets == c, points) for c in range(len(classes))]
    return wandb.plot.line_series(
        xs=[recall.tolist() for recall, _ in curves],
        ys=[precision.tolist() for _, precision in curves],
        keys=classes,
        title="Precision against recall",
        xname="recall",
    )


def _mistake_table(mistakes: Sequence[Mistake], image: Callable[[int], np.ndarray]) -> Any:
    import wandb

    table = wandb.Table(columns=["image", "file", "label", "prediction", "confidence"])
    for row, *values in mistakes:
        table.add_data(wandb.Image(thumbnail(image(row))), *values)
    return table
