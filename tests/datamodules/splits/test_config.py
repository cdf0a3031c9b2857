"""Settings of a split: several groupings at once, rare classes and invalid values."""

import numpy as np
import pytest
from toy_images import data_module

from datamodules.sources.base import Sample
from datamodules.splits.config import SplitConfig, apply_class_fraction
from litesort.errors import DataError

NUMBER = r"(\w+)/(\d+)"


@pytest.fixture
def samples():
    return [Sample(f"{name}/{number}.jpg", label) for label, name in enumerate(("can", "bag")) for number in range(100)]


def split_of(rows, count=200):
    """Number of the split of each sample, -1 for none."""
    place = np.full(count, -1)
    for number, own in enumerate(rows.values()):
        place[own] = number
    return place


def test_group_by_duplicates_and_pattern_keeps_both_groups(samples):
    labels = np.array([sample.label for sample in samples])
    duplicate_ids = np.arange(200)
    duplicate_ids[[3, 57]] = 1000
    duplicate_ids[[111, 188]] = 1001
    assert SplitConfig(group_by=["duplicates", NUMBER], group_block=10).by_similarity
    for seed in range(5):
        rows, _ = SplitConfig(group_by=["duplicates", NUMBER], group_block=10, seed=seed).split(
            samples, labels, ["can", "bag"], duplicate_ids
        )
        place = split_of(rows)
        assert all(len(set(place[start : start + 10])) == 1 for start in range(0, 200, 10))
        assert place[3] == place[57]
        assert place[111] == place[188]
        assert (place >= 0).all()


def test_class_fraction_reduces_only_training_images(samples):
    labels = np.array([sample.label for sample in samples])
    whole, _ = SplitConfig().split(samples, labels, ["can", "bag"], None)
    scarce, _ = SplitConfig(class_fraction={"bag": 0.2}).split(samples, labels, ["can", "bag"], None)
    assert np.bincount(labels[whole["train"]]).tolist() == [70, 70]
    assert np.bincount(labels[scarce["train"]]).tolist() == [70, 14]
    assert set(scarce["train"]) < set(whole["train"])
    for name in ("val", "test"):
        assert np.array_equal(whole[name], scarce[name])
    assert len(apply_class_fraction(np.arange(3), np.zeros(3, int), ["can"], {"can": 0.01}, 0)) == 1


@pytest.mark.parametrize(
    ("class_fraction", "message"),
    [
        ({"tin": 0.2}, "data.class_fraction names tin"),
        ({"can": 0}, r"data.class_fraction=\{can: 0\}"),
        ({"can": 1.5}, "expected a number above 0"),
    ],
)
def test_class_fraction_invalid_raises_data_error(samples, class_fraction, message):
    labels = np.array([sample.label for sample in samples])
    with pytest.raises(DataError, match=message):
        SplitConfig(class_fraction=class_fraction).split(samples, labels, ["can", "bag"], None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_batch_size": 0}, "data.eval_batch_size=0"),
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"cache_budget_gb": -1}, "data.cache_budget_gb=-1"),
        ({"cache_budget_gb": float("nan")}, "data.cache_budget_gb=nan"),
    ],
)
def test_invalid_sizes_name_their_key(image_folder, options, message):
    with pytest.raises(DataError, match=message):
        data_module(image_folder, None, **options)
