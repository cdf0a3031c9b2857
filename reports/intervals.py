"""95 % bootstrap intervals of macro F1, over images. Pure numpy functions.

Images are drawn with replacement. Macro F1 depends only on how often each combination of label and prediction is drawn,
so one multinomial draw replaces N draws of images.
"""

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
_BLOCK = 100  # resamples that are computed together


def f1_interval(targets: np.ndarray, predictions: np.ndarray, classes: int) -> tuple[float, float]:
    """Compute the interval of macro F1, the mean over classes that have images.

    Args:
        targets: (N,) int, true classes; N above 0.
        predictions: (N,) int, predicted classes.
        classes: Number of classes.

    Returns:
        Lower and upper end, in [0, 1]. The result is deterministic.
    """
    return _ends(_resampled_f1(targets, [predictions], classes)[0])


def f1_loss_interval(targets: np.ndarray, before: np.ndarray, after: np.ndarray, classes: int) -> tuple[float, float]:
    """Compute the paired interval of the loss of macro F1 between two sets of predictions for the same images.

    Args:
        targets: (N,) int, true classes; N above 0.
        before: (N,) int, predicted classes of the reference, such as a checkpoint.
        after: (N,) int, predicted classes that are compared with it, such as those of an exported file.
        classes: Number of classes.

    Returns:
        Lower and upper end; below 0 if `after` is better.
    """
    first, second = _resampled_f1(targets, [before, after], classes)
    return _ends(first - second)


def _resampled_f1(targets: np.ndarray, predictions: list[np.ndarray], classes: int) -> list[np.ndarray]:
    """Return macro F1 (RESAMPLES,) of each set of predictions, over the same resamples."""
    cells, counts = np.unique(np.stack([targets, *predictions]), axis=1, return_counts=True)
    label, *predicted = (np.eye(classes)[row] for row in cells)  # (cells, classes) each
    random = np.random.default_rng(0)
    parts = []
    for _ in range(RESAMPLES // _BLOCK):
        drawn = random.multinomial(len(targets), counts / len(targets), size=_BLOCK).astype(float)
        parts.append([_macro_f1(drawn, label, prediction) for prediction in predicted])
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _macro_f1(drawn: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return macro F1 (R,) of R resamples.

    `drawn` (R, cells) counts how often each combination of label and prediction is drawn. `label` and `prediction`
    (cells, classes) are one-hot.
    """
    support, predicted, hits = drawn @ label, drawn @ prediction, drawn @ (label * prediction)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    present = support > 0
    return (f1 * present).sum(1) / present.sum(1)


def _ends(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
