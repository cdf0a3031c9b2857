"""Pictures and tables of a run for W&B; does nothing where no W&B logger is attached."""

from typing import Any

import numpy as np
import pytorch_lightning as pl

from callbacks.predictions import Predictions, to_uint8
from callbacks.wandb_run import find_run


class WandbMedia(pl.Callback):
    """Show what the network saw and where it went wrong.

    Logged: `preview/augmented` (the first training batch as one picture), and after a test `test/confusion_matrix`,
    `test/per_class` (precision, recall, F1, support), `test/pr_curves` and `test/mistakes` (a table of pictures). The
    config of the run is that in the module's `state_record`; the answers are those of the `Predictions` callback.

    Args:
        preview: Pictures in the preview of augmented photos, 0 for none.
        curve_points: Largest number of points a precision-recall curve has.
    """

    def __init__(self, preview: int = 32, curve_points: int = 100) -> None:
        self.preview = preview
        self.curve_points = curve_points
        self._previewed = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        run = find_run(trainer.loggers)
        record = getattr(pl_module, "state_record", None)
        if run is not None and record:
            run.config.update(record.get("config") or {}, allow_val_change=True)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._previewed or not self.preview:
            return
        self._previewed = True
        run = find_run(trainer.loggers)
        if run is not None:
            import wandb

            picture = grid(to_uint8(batch[0][: self.preview]))
            run.log({"preview/augmented": wandb.Image(picture), "trainer/global_step": trainer.global_step})

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        run = find_run(trainer.loggers)
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        found = [callback for callback in callbacks if isinstance(callback, Predictions)]
        if run is None or not found or not len(found[0].targets):
            return
        names: Any = pl_module.classes
        classes = [str(name) for name in names]
        answers = found[0]
        media = {
            "test/confusion_matrix": _confusion_matrix(answers, classes),
            "test/per_class": _per_class(answers, classes),
            "test/pr_curves": _curves(answers, classes, self.curve_points),
            "test/mistakes": _mistakes(answers, classes, getattr(trainer, "datamodule", None)),
        }
        run.log({**media, "trainer/global_step": trainer.global_step})


def grid(images: np.ndarray) -> np.ndarray:
    """Lay (N, H, W, 3) uint8 out as one picture (rows * H, columns * W, 3), black where there is none."""
    count, height, width, _ = images.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = int(np.ceil(count / columns))
    canvas = np.zeros((rows * columns, height, width, 3), np.uint8)
    canvas[:count] = images
    return canvas.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)


def precision_recall(scores: np.ndarray, positive: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute a precision-recall curve, thinned to at most `points` points.

    Args:
        scores: (N,) float, higher means more positive.
        positive: (N,) bool.
        points: Largest number of points, at least 2.

    Returns:
        recall, precision: (P,) float each, recall rising. One point for each distinct score, as scikit-learn draws it
        (without its last point at recall 0).
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # equal scores are one threshold
    recall, precision = hits[last] / max(int(positive.sum()), 1), hits[last] / (last + 1)
    chosen = np.unique(np.linspace(0, len(last) - 1, points).round().astype(int))
    return recall[chosen], precision[chosen]


def _confusion_matrix(answers: Predictions, classes: list[str]) -> Any:
    import wandb

    return wandb.plot.confusion_matrix(
        y_true=answers.targets.tolist(), preds=answers.probabilities.argmax(1).tolist(), class_names=classes
    )


def _per_class(answers: Predictions, classes: list[str]) -> Any:
    import wandb

    predicted = answers.probabilities.argmax(1)
    table = wandb.Table(columns=["class", "precision", "recall", "f1", "support"])
    for index, name in enumerate(classes):
        truth, guess = answers.targets == index, predicted == index
        hits = int((truth & guess).sum())
        precision, recall = hits / max(int(guess.sum()), 1), hits / max(int(truth.sum()), 1)
        f1 = 2 * hits / max(int(truth.sum() + guess.sum()), 1)
        table.add_data(name, precision, recall, f1, int(truth.sum()))
    return table


def _curves(answers: Predictions, classes: list[str], points: int) -> Any:
    import wandb

    # wandb.plot.pr_curve needs pandas and scikit-learn.
    curves = [
        precision_recall(answers.probabilities[:, index], answers.targets == index, points)
        for index in range(len(classes))
    ]
    return wandb.plot.line_series(
        xs=[recall.tolist() for recall, _ in curves],
        ys=[precision.tolist() for _, precision in curves],
        keys=classes,
        title="Precision against recall",
        xname="recall",
    )


def _mistakes(answers: Predictions, classes: list[str], datamodule: Any) -> Any:
    import wandb

    samples = getattr(datamodule, "samples", None)
    table = wandb.Table(columns=["photo", "file", "label", "prediction", "confidence"])
    for image, row in zip(answers.mistake_images, answers.mistake_rows, strict=True):
        guess = int(answers.probabilities[row].argmax())
        index = int(answers.indices[row])
        table.add_data(
            wandb.Image(image),
            samples[index].path if samples is not None else str(index),
            classes[int(answers.targets[row])],
            classes[guess],
            float(answers.probabilities[row, guess]),
        )
    return table
