"""Settings of a split: several ways to group at once, scarce classes, and values that are none."""

import numpy as np
import pytest

from datamodules.datamodule import ImageDataModule
from datamodules.sources.base import Sample
from datamodules.sources.folder import FolderSource
from datamodules.splits.config import SplitConfig, thinned
from litesort.errors import DataError

NUMBER = r"(\w+)/(\d+)"


@pytest.fixture
def samples():
    return [Sample(f"{name}/{number}.jpg", label) for label, name in enumerate(("can", "bag")) for number in range(100)]


def side(rows, count=200):
    place = np.full(count, -1)
    for number, own in enumerate(rows.values()):
        place[own] = number
    return place


def test_likeness_and_numbers_together_keep_both_kinds_of_pairs_on_one_side(samples):
    labels = np.array([sample.label for sample in samples])
    duplicate_ids = np.arange(200)
    duplicate_ids[[3, 57]] = 1000
    duplicate_ids[[111, 188]] = 1001
    ways = SplitConfig(group_by=["duplicates", NUMBER], group_block=10)
    assert ways.by_similarity
    for seed in range(5):
        rows, _ = SplitConfig(group_by=["duplicates", NUMBER], group_block=10, seed=seed).split(
            samples, labels, ["can", "bag"], duplicate_ids
        )
        place = side(rows)
        assert all(len(set(place[start : start + 10])) == 1 for start in range(0, 200, 10))
        assert place[3] == place[57]
        assert place[111] == place[188]
        assert (place >= 0).all()


def test_a_class_is_made_scarce_in_training_alone(samples):
    labels = np.array([sample.label for sample in samples])
    whole, _ = SplitConfig().split(samples, labels, ["can", "bag"], None)
    scarce, _ = SplitConfig(class_fraction={"bag": 0.2}).split(samples, labels, ["can", "bag"], None)
    assert np.bincount(labels[whole["train"]]).tolist() == [70, 70]
    assert np.bincount(labels[scarce["train"]]).tolist() == [70, 14]
    assert set(scarce["train"]) < set(whole["train"])
    for name in ("val", "test"):
        assert np.array_equal(whole[name], scarce[name])
    assert len(thinned(np.arange(3), np.zeros(3, int), ["can"], {"can": 0.01}, 0)) == 1


@pytest.mark.parametrize(
    ("class_fraction", "words"),
    [
        ({"tin": 0.2}, "data.class_fraction names tin"),
        ({"can": 0}, r"data.class_fraction=\{can: 0\}"),
        ({"can": 1.5}, "must be a share"),
    ],
)
def test_a_share_that_is_none_is_named(samples, class_fraction, words):
    labels = np.array([sample.label for sample in samples])
    with pytest.raises(DataError, match=words):
        SplitConfig(class_fraction=class_fraction).split(samples, labels, ["can", "bag"], None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eval_batch_size": 0}, "data.eval_batch_size=0"),
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"cache_budget_gb": -1}, "data.cache_budget_gb=-1"),
        ({"cache_budget_gb": float("nan")}, "data.cache_budget_gb=nan"),
    ],
)
def test_a_size_that_is_none_is_refused_under_its_own_key(photos, options, words):
    with pytest.raises(DataError, match=words):
        ImageDataModule(FolderSource(photos), **options)
