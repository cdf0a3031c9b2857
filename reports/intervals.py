"""95 % bootstrap intervals of macro F1, over images. Pure numpy functions.

Images are drawn with replacement. Only how often each combination of label and prediction is drawn matters, so one
multinomial draw replaces N draws of images.
"""

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
_AT_ONCE = 100  # resamples in memory


def f1_interval(targets: np.ndarray, predictions: np.ndarray, classes: int) -> tuple[float, float]:
    """Interval of macro F1, the mean over classes that have images.

    Args:
        targets: (N,) int, true classes; N above 0.
        predictions: (N,) int, predicted classes.
        classes: Number of classes.

    Returns:
        Lower and upper end, in [0, 1]; the same for the same input.
    """
    return _ends(_resampled_f1(targets, [predictions], classes)[0])


def f1_loss_interval(targets: np.ndarray, before: np.ndarray, after: np.ndarray, classes: int) -> tuple[float, float]:
    """Interval of the macro F1 that is lost from one set of predictions to another of the same images (paired).

    Args:
        targets: (N,) int, true classes; N above 0.
        before: (N,) int, predicted classes.
        after: (N,) int, predicted classes, of a file that is compared with `before`.
        classes: Number of classes.

    Returns:
        Lower and upper end; below 0 if `after` is better.
    """
    first, second = _resampled_f1(targets, [before, after], classes)
    return _ends(first - second)


def _resampled_f1(targets: np.ndarray, predictions: list[np.ndarray], classes: int) -> list[np.ndarray]:
    """Macro F1 (RESAMPLES,) of each set of predictions, over the same resamples."""
    cells, counts = np.unique(np.stack([targets, *predictions]), axis=1, return_counts=True)
    label, *answers = (np.eye(classes)[row] for row in cells)  # (cells, classes) each
    random = np.random.default_rng(0)
    parts = []
    for _ in range(RESAMPLES // _AT_ONCE):
        drawn = random.multinomial(len(targets), counts / len(targets), size=_AT_ONCE).astype(float)
        parts.append([_macro_f1(drawn, label, answer) for answer in answers])
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _macro_f1(drawn: np.ndarray, label: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """Macro F1 (R,) of R resamples: how often each cell is drawn (R, cells), and one-hot rows (cells, classes)."""
    support, predicted, hits = drawn @ label, drawn @ answer, drawn @ (label * answer)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    present = support > 0
    return (f1 * present).sum(1) / present.sum(1)


def _ends(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
