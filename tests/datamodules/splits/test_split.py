"""Splits and groups: properties that hold for any data, and errors."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from datamodules.splits.groups import group_ids
from datamodules.splits.split import fold_split, given_split, missing_class_notes, plan_split, split
from litesort.errors import DataError

FRACTIONS = {"val": 0.15, "test": 0.15}


def names(labels):
    return [f"c{label}" for label in range(int(max(labels)) + 1)]


def assert_partition(splits, total):
    rows = np.concatenate(list(splits.values()))
    assert len(rows) == total
    np.testing.assert_array_equal(np.sort(rows), np.arange(total))


@st.composite
def labelled_images(draw, grouped):
    """Labels and group numbers; each group has one class, each class at least 6 groups."""
    labels, groups = [], []
    for label in range(draw(st.integers(2, 5))):
        sizes = draw(st.lists(st.integers(1, 7 if grouped else 1), min_size=6, max_size=40))
        for size in sizes:
            groups += [len(labels) and groups[-1] + 1] * size
            labels += [label] * size
    order = np.random.default_rng(draw(st.integers(0, 9))).permutation(len(labels))
    return np.array(labels)[order], np.array(groups)[order]


@settings(max_examples=60, deadline=None)
@given(labelled_images(grouped=False), st.integers(0, 2**32), st.floats(0.05, 0.4), st.floats(0.05, 0.4))
def test_split_is_complete_disjoint_deterministic_and_proportional(data, seed, val, test):
    labels, groups = data
    fractions = {"val": val, "test": test}
    splits = split(labels, groups, names(labels), fractions, seed)
    again = split(labels, groups, names(labels), fractions, seed)
    assert_partition(splits, len(labels))
    for name, share in {"train": 1 - val - test, **fractions}.items():
        np.testing.assert_array_equal(splits[name], again[name])
        counts = np.bincount(labels[splits[name]], minlength=labels.max() + 1)
        exact = share * np.bincount(labels)
        assert counts.min() >= 1
        assert (np.abs(counts - exact) < 2).all()  # rounded, plus at most one image for a split that would be empty


@settings(max_examples=60, deadline=None)
@given(labelled_images(grouped=True), st.integers(0, 2**32))
def test_split_keeps_groups_whole_and_classes_in_proportion(data, seed):
    labels, groups = data
    splits = split(labels, groups, names(labels), FRACTIONS, seed)
    assert_partition(splits, len(labels))
    homes = Counter(group for rows in splits.values() for group in set(groups[rows].tolist()))
    assert set(homes.values()) == {1}
    for name, share in {"train": 0.7, **FRACTIONS}.items():
        counts = np.bincount(labels[splits[name]], minlength=labels.max() + 1)
        largest = np.array([max(Counter(groups[labels == label]).values()) for label in range(labels.max() + 1)])
        assert counts.min() >= 1
        assert (counts <= share * np.bincount(labels) + largest).all()
        assert (counts >= share * np.bincount(labels) - 2 * largest).all()


@settings(max_examples=40, deadline=None)
@given(labelled_images(grouped=True), st.integers(2, 5), st.integers(0, 99))
def test_folds_test_on_every_image_once(data, folds, seed):
    labels, groups = data
    try:
        every = [fold_split(labels, groups, names(labels), fold, folds, 0.1, seed) for fold in range(folds)]
    except DataError:  # one group may be so large that too few images remain for the other splits
        reject()
    for splits in every:
        assert_partition(splits, len(labels))
        assert not set(groups[splits["train"]]) & set(groups[splits["test"]])
        assert not set(groups[splits["train"]]) & set(groups[splits["val"]])
        assert len(np.unique(labels[splits["train"]])) == labels.max() + 1
    np.testing.assert_array_equal(np.sort(np.concatenate([s["test"] for s in every])), np.arange(len(labels)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=60, max_size=200), st.integers(0, 99))
def test_groups_of_several_classes_stay_whole(classes, seed):
    labels = np.array([*range(4)] * 10 + classes)  # every class in ten groups or more
    groups = np.arange(len(labels)) // 3
    splits = split(labels, groups, names(labels), FRACTIONS, seed)
    assert_partition(splits, len(labels))
    assert sum(len(np.unique(groups[rows])) for rows in splits.values()) == len(np.unique(groups))
    assert abs(len(splits["test"]) / len(labels) - 0.15) < 0.08


def test_another_seed_is_another_split():
    labels = np.repeat([0, 1], 50)
    a, b = (split(labels, np.arange(100), ["a", "b"], FRACTIONS, seed) for seed in (0, 1))
    assert set(a["test"]) != set(b["test"])


@pytest.mark.parametrize(
    ("labels", "classes", "options", "message"),
    [
        ([0] * 9, ["can"], {}, "only one class"),
        ([0] * 9 + [2] * 9, ["can", "bag", "cup"], {}, "no readable image of class bag"),
        ([0] * 9 + [1] * 2, ["can", "bag"], {}, "class bag has 2 images, fewer than 3 splits"),
        ([0] * 9 + [1] * 4, ["can", "bag"], {"fold": 0, "folds": 5}, "class bag has 4 images, fewer than data.folds=5"),
        (
            [0] * 9 + [1] * 9,
            ["can", "bag"],
            {"fold": 5, "folds": 5},
            "data.fold=5 is invalid: expected an integer from 0 to 4",
        ),
        (
            [0] * 9 + [1] * 9,
            ["can", "bag"],
            {"fold": 0, "folds": 1},
            "data.folds=1 is invalid: expected an integer of at least 2",
        ),
        ([0] * 9 + [1] * 9, ["can", "bag"], {"fold": 1}, "set both"),
        ([0] * 9 + [1] * 9, ["can", "bag"], {"folds": 4}, "set both"),
        (
            [0] * 9 + [1] * 9,
            ["can", "bag"],
            {"val_fraction": 0.0},
            "data.val_fraction=0.0 is invalid: expected a number between 0 and 1",
        ),
        ([0] * 9 + [1] * 9, ["can", "bag"], {"test_fraction": 1.5}, "data.test_fraction=1.5 is invalid"),
        ([0] * 9 + [1] * 9, ["can", "bag"], {"val_fraction": 0.5, "test_fraction": 0.5}, "leave no image to train on"),
        ([0] * 9 + [1] * 9, ["can", "bag"], {"fold": 0, "folds": 2, "val_fraction": 0.5}, "between 0 and 0.5"),
    ],
)
def test_split_invalid_settings_raise_data_error(labels, classes, options, message):
    labels = np.array(labels)
    with pytest.raises(DataError, match=message) as caught:
        plan_split(labels, np.arange(len(labels)), classes, [None] * len(labels), **options)
    assert "\n" not in str(caught.value)


def test_too_few_groups_are_refused_by_class():
    labels = np.repeat([0, 1], 12)
    groups = np.concatenate([np.arange(12), 12 + np.arange(12) // 6])
    with pytest.raises(DataError, match="class b has 2 groups, fewer than 3 splits"):
        split(labels, groups, ["a", "b"], FRACTIONS, 0)


def test_given_splits_are_kept():
    labels = np.array([0, 1] * 6)
    given = ["train"] * 4 + [None] * 2 + ["val"] * 3 + ["test"] * 3
    splits, notes = given_split(labels, np.arange(12), ["a", "b"], given, 0.2, 0.2, 0)
    assert notes == []
    assert {name: rows.tolist() for name, rows in splits.items()} == {
        "train": [0, 1, 2, 3, 4, 5], "val": [6, 7, 8], "test": [9, 10, 11],
    }  # fmt: skip


def test_given_split_tests_on_val_without_test_images():
    labels = np.array([0, 1] * 6)
    splits, notes = given_split(labels, np.arange(12), ["a", "b"], ["train"] * 8 + ["val"] * 4, 0.2, 0.2, 0)
    np.testing.assert_array_equal(splits["test"], splits["val"])
    assert len(notes) == 1
    assert "no test split" in notes[0]


@pytest.mark.parametrize(("given", "drawn"), [("test", ["val"]), (None, ["val", "test"])])
def test_given_split_draws_missing_splits_from_train(given, drawn):
    labels = np.array([0, 1] * 20)
    marks = ["train"] * 30 + [given or "train"] * 10
    splits, notes = plan_split(labels, np.arange(40), ["a", "b"], marks)
    assert_partition(splits, 40)
    assert all(len(splits[name]) for name in splits)
    if given:
        np.testing.assert_array_equal(splits[given], np.arange(30, 40))
    assert " and no ".join(drawn) in notes[0]


def test_given_splits_with_gaps():
    labels = np.array([0, 1, 0, 1, 0, 0])
    ids = np.arange(6)
    splits, notes = given_split(labels, ids, ["a", "b"], ["train"] * 4 + ["val", "test"], 0.2, 0.2, 0)
    assert len(splits["train"]) == 4
    assert notes == []
    notes = missing_class_notes(labels, ["a", "b"], splits)
    assert [("b" in note, "val" in note or "test" in note) for note in notes] == [(True, True)] * 2
    rows, _ = given_split(labels, ids, ["a", "b"], ["train", "val", "train", "test", "val", "test"], 0.2, 0.2, 0)
    with pytest.raises(DataError, match="class b has no image in the train split"):
        missing_class_notes(labels, ["a", "b"], rows)
    with pytest.raises(DataError, match="no training image"):
        given_split(labels, ids, ["a", "b"], ["val"] * 3 + ["test"] * 3, 0.2, 0.2, 0)
    with pytest.raises(DataError, match=r"data\.folds=3: the source defines its own split"):
        plan_split(labels, ids, ["a", "b"], ["train"] * 4 + ["val", "test"], fold=0, folds=3)


def test_given_split_reports_groups_across_splits():
    labels = np.array([0, 1, 0, 1, 0, 1])
    marks = ["train", "train", "val", "val", "test", "test"]
    _, notes = given_split(labels, np.array([0, 1, 0, 2, 3, 4]), ["a", "b"], marks, 0.2, 0.2, 0)
    crossing = (
        "1 groups have images both in train and in val and test, as the source defines them: "
        "test results are too optimistic"
    )
    assert notes == [crossing]


def test_groups_across_train_and_test_folders_are_counted_if_val_is_drawn():
    labels, marks = np.tile([0, 1], 12), ["train"] * 20 + ["test"] * 4
    groups = np.arange(24)
    groups[20:] = groups[:4]
    rows, notes = given_split(labels, groups, ["a", "b"], marks, 0.2, 0.2, 0)
    assert len(rows["val"]) >= 2
    assert any(note.startswith("4 groups have images both in train and in test") for note in notes)


def test_group_by_takes_captures_blocks_and_names():
    paths = ["glass/glass9.jpg", "glass/glass10.jpg", "metal/metal10.jpg", "glass/glass19.jpg", "metal/metal2.jpg"]
    none = [None] * 5
    assert group_ids(paths, [], None, none).tolist() == [0, 1, 2, 3, 4]
    assert group_ids(paths, [r"^(\w+)/"], None, none).tolist() == [0, 0, 1, 0, 1]
    assert group_ids(paths, [r"glass|metal"], None, none).tolist() == [0, 0, 1, 0, 1]
    assert group_ids(paths, [r"([a-z]+)(\d+)\.jpg$"], 10, none).tolist() == [0, 1, 2, 1, 3]
    chained = group_ids(paths, [r"([a-z]+)(\d+)\.jpg$"], 10, ["x", None, None, "x", None])
    assert chained.tolist() == [0, 0, 1, 0, 2]  # the source joins 9 and 19, the block joins 10 and 19


@pytest.mark.parametrize(
    ("pattern", "block", "message"),
    [
        ("(", None, "is not a regular expression"),
        (r"([a-z]+)(\d+)", None, "does not match 'b/photo.jpg'"),
        (r"^(\w)/", 10, "captures no number in 'a/can1.jpg'"),
        (None, 10, r"data\.group_block=10 needs data\.group_by"),
        (r"(\w+)", 0, r"data\.group_block=0 is invalid"),
    ],
)
def test_group_by_errors(pattern, block, message):
    with pytest.raises(DataError, match=message):
        group_ids(["a/can1.jpg", "b/photo.jpg"], [pattern] if pattern else [], block, [None, None])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400)), min_size=1, max_size=80), st.integers(1, 30))
def test_blocks_hold_neighbours(numbers, block):
    ids = group_ids([f"c{c}/p{n}.jpg" for c, n in numbers], [r"c(\d)/p(\d+)"], block, [None] * len(numbers))
    for (c1, n1), i in zip(numbers, ids, strict=True):
        for (c2, n2), j in zip(numbers, ids, strict=True):
            assert (i == j) == (c1 == c2 and n1 // block == n2 // block)
