import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from reports.per_class import confusion_counts, per_class


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
