"""Wrong labels and outliers are found from features. Confident learning agrees with cleanlab."""

import numpy as np
import pytest
from PIL import Image
from toy_images import data_module

from datamodules.quality import label_issues as module
from datamodules.quality.audit import audit, leakage
from datamodules.quality.duplicates import duplicate_ids
from datamodules.quality.embeddings import HistogramEmbedder, features
from datamodules.quality.label_issues import FOLDS, confident_learning, label_issues, out_of_fold
from datamodules.quality.outliers import knn_distances, outliers


@pytest.fixture(scope="module")
def noisy_labels():
    """Features of 300 images in 3 clusters; 15 of the labels are wrong."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(3), 100)
    features = rng.normal(0, 0.5, (300, 16)) + 2 * np.eye(3, 16)[truth]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    wrong = rng.choice(300, 15, replace=False)
    labels = truth.copy()
    labels[wrong] = (labels[wrong] + 1) % 3
    return features.astype(np.float32), labels, truth, set(wrong.tolist())


@pytest.mark.parametrize("cleanlab", [True, False])
def test_wrong_labels_are_found_with_their_true_class(noisy_labels, monkeypatch, cleanlab):
    if cleanlab:
        pytest.importorskip("cleanlab")
    monkeypatch.setattr(module, "has_cleanlab", lambda: cleanlab)
    features, labels, truth, wrong = noisy_labels
    places, likely = label_issues(labels, out_of_fold(features, labels, np.arange(300)))
    assert len(wrong & set(places.tolist())) >= 13
    assert len(set(places.tolist()) - wrong) <= 2
    assert np.mean(likely == truth[places]) > 0.9


def test_confident_learning_agrees_with_cleanlab(noisy_labels):
    cleanlab = pytest.importorskip("cleanlab.filter")
    features, labels, _, _ = noisy_labels
    probabilities = out_of_fold(features, labels, np.arange(300))
    theirs = cleanlab.find_label_issues(labels, probabilities, filter_by="prune_by_noise_rate", n_jobs=1)
    ours = confident_learning(labels, probabilities)
    assert (ours & theirs).sum() >= 0.9 * max(ours.sum(), theirs.sum()) > 0


def test_out_of_fold_keeps_copies_in_one_fold(noisy_labels):
    features, labels, _, wrong = noisy_labels
    place = min(wrong)
    twice = np.concatenate([features, np.repeat(features[[place]], 6, 0)])
    doubled = np.concatenate([labels, np.repeat(labels[[place]], 6)])
    together = np.concatenate([np.arange(300), np.full(6, place)])
    grouped, ungrouped = (
        out_of_fold(twice, doubled, groups)[place, labels[place]] for groups in (together, np.arange(306))
    )
    assert grouped < 0.5 * ungrouped


def test_label_issues_skip_small_classes():
    probabilities = np.tile([0.97, 0.03], (40, 1))
    labels = np.zeros(40, np.int64)
    labels[: FOLDS - 1] = 1
    assert label_issues(labels, probabilities)[0].tolist() == []


def test_outliers_and_near_pairs_are_found():
    rng = np.random.default_rng(0)
    features = rng.normal(0, 0.2, (60, 8)) + 1.0
    features[7] = -features[7]
    features[12] = features[30] + 1e-3
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    distances, pairs = knn_distances(features.astype(np.float32), near=0.9999)
    assert [pair[:2] for pair in pairs] == [(12, 30)]
    assert outliers(distances, np.zeros(60, np.int64))[0] == 7


def test_knn_distances_of_two_or_fewer_images():
    for count in (1, 2):
        distances, pairs = knn_distances(np.eye(count, 4, dtype=np.float32), near=0.9)
        assert len(distances) == count
        assert pairs == []


def test_leakage_counts_pairs_across_splits():
    pairs = [
        {"rows": [0, 3], "by": "pixels"}, {"rows": [1, 2], "by": "pixels"}, {"rows": [2, 5], "by": "features"},
    ]  # fmt: skip
    splits = {"train": np.array([0, 1, 2]), "val": np.array([5]), "test": np.array([3, 4])}
    counts = {"train": 3, "val": 1, "test": 2}
    assert leakage(splits, pairs) == {"images": counts, "crossing": 2, "by_pixels": 1, "leaked": 0.5}
    assert duplicate_ids(6, (pair["rows"] for pair in pairs)).tolist() == [0, 1, 1, 0, 2, 1]
    unused = splits | {"test": np.array([4])}
    assert leakage(unused, pairs) == {"images": counts | {"test": 1}, "crossing": 1, "by_pixels": 0, "leaked": 0.0}


def test_histogram_embedder_distinguishes_colours():
    red, blue = np.zeros((2, 4, 64, 64, 3), np.uint8)
    red[..., 0] = blue[..., 2] = 200
    descriptors = HistogramEmbedder()(np.concatenate([red, blue]))
    assert descriptors.shape == (8, 192)
    assert np.isfinite(descriptors).all()
    assert np.abs(descriptors[0] - descriptors[4]).max() > 0.5
    assert np.array_equal(descriptors[0], descriptors[3])


def test_features_exclude_broken_images(tmp_path, cache_dir):
    rng = np.random.default_rng(0)
    for name in ("bag", "can"):
        (tmp_path / name).mkdir()
        for number in range(10):
            image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((64, 64))
            image.save(tmp_path / name / f"{number}.png")
        for number in range(10, 100):
            (tmp_path / name / f"{number}.png").write_bytes(b"")
    data = data_module(tmp_path, cache_dir, size=128)
    data.setup()
    found, _ = features(data, HistogramEmbedder(), data.rows, progress=False)
    assert len(found) == 20
    assert np.abs(found.mean(0)).max() < 0.05
    assert (found @ found.T)[np.triu_indices(20, 1)].max() < 0.5


def test_features_fall_back_to_histograms_over_budget(tmp_path, cache_dir):
    class Network:
        name, size, resize = "network", 512, "pad"

        def __call__(self, pixels):
            raise AssertionError("called, although its images exceed the budget")

    rng = np.random.default_rng(0)
    for name in ("bag", "can"):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / name / f"{number}.png")
    data = data_module(tmp_path, cache_dir, cache_budget_gb=0.001)
    data.setup()
    assert audit(data, [], {}, Network(), progress=False)["features"] == HistogramEmbedder.name
