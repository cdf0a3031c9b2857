import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_curve, precision_recall_fscore_support

from reports.per_class import confusion_counts, per_class, precision_recall


def test_per_class_agrees_with_scikit_learn():
    random = np.random.default_rng(0)
    targets, predictions = random.integers(0, 4, (2, 200))
    counts = confusion_counts(targets, predictions, 5)  # the fifth class has no image and no prediction
    np.testing.assert_array_equal(counts, confusion_matrix(targets, predictions, labels=range(5)))
    expected = precision_recall_fscore_support(targets, predictions, labels=range(5), zero_division=0)
    scores = per_class(counts, list("abcde"))
    assert [row.name for row in scores] == list("abcde")
    for row, *values in zip(scores, *expected, strict=True):
        assert row[1:] == pytest.approx(values)


@pytest.mark.parametrize("tied", [False, True])
def test_precision_recall_equals_scikit_learn(tied):
    rng = np.random.default_rng(1)
    positive = rng.random(300) < 0.3
    scores = rng.random(300) * 0.7 + positive * 0.2
    scores = scores.round(1) if tied else scores
    precision, recall, _ = precision_recall_curve(positive, scores)
    whole = precision_recall(scores, positive, points=1000)
    np.testing.assert_allclose(whole[0], recall[:-1][::-1])
    np.testing.assert_allclose(whole[1], precision[:-1][::-1])
    thin = precision_recall(scores, positive, points=7)
    assert len(thin[0]) <= 7
    assert set(zip(*thin, strict=True)) <= set(zip(*whole, strict=True))
    assert (thin[0][0], thin[0][-1]) == (whole[0][0], 1.0)
