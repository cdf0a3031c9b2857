"""The stored split: each image keeps its split when files are added to, removed from or moved in the folder."""

import json
import logging
import shutil
from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_images import data_module, noise

from datamodules.splits.stored_split import EARLIER, NEW, TEST, TRAIN, UNUSED, VAL, StoredSplit
from litesort.errors import DataError

BITS = st.sampled_from([TRAIN, VAL, TEST, VAL | TEST, UNUSED])


@pytest.fixture
def root(tmp_path):
    return noise(tmp_path / "photos")


@pytest.fixture
def make(tmp_path):
    return partial(data_module, cache_dir=tmp_path / "cache")


def splits(data):
    """Path -> names of the splits that hold it."""
    data.setup()
    found = {}
    for name, rows in data.splits.items():
        for row in rows:
            found.setdefault(data.samples[row].path, []).append(name)
    return found


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), BITS), max_size=30))
def test_unpacked_split_equals_the_packed_one(samples):
    keys, own = np.array([key for key, _ in samples], np.uint64), np.array([bits for _, bits in samples], np.uint8)
    split = StoredSplit.unpack(json.loads(json.dumps(StoredSplit(keys, own).pack())))
    assert split.keys.tolist() == keys.tolist()
    assert split.bits.tolist() == own.tolist()


@given(st.lists(st.tuples(st.integers(0, 9), BITS), min_size=1, max_size=20), st.randoms())
def test_images_and_copies_keep_their_split_in_any_order(samples, random):
    keys, own = np.array([key for key, _ in samples], np.uint64), np.array([bits for _, bits in samples], np.uint8)
    split = StoredSplit(keys, own)
    np.testing.assert_array_equal(split.look_up(keys), own)
    assert split.missing(keys) == 0
    order = random.sample(range(len(keys)), len(keys))
    found = split.look_up(keys[order])
    for key in set(keys.tolist()):
        assert Counter(found[keys[order] == key].tolist()) == Counter(own[keys == key].tolist())


@given(st.lists(st.tuples(st.integers(0, 5), BITS), min_size=1, max_size=20), st.lists(st.integers(0, 9), max_size=20))
def test_training_images_are_never_test_images(samples, others):
    keys, own = np.array([key for key, _ in samples], np.uint64), np.array([bits for _, bits in samples], np.uint8)
    found = StoredSplit(keys, own).look_up(np.array(others, np.uint64))
    copies, stored = Counter(others), Counter(keys.tolist())
    for key, bits in zip(others, found.tolist(), strict=True):
        assert (bits == NEW) == (key not in stored)
        if copies[key] != stored[key] and TRAIN in own[keys == key]:
            assert bits == TRAIN


def test_100_000_images_take_less_than_2_mb():
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 2**64, 100_000, dtype=np.uint64)
    split = StoredSplit(keys, rng.choice([TRAIN, VAL, TEST], len(keys)).astype(np.uint8))
    assert len(json.dumps(split.pack())) < 2e6


@pytest.mark.parametrize(
    "packed",
    [
        {},
        "text",
        {"format": 1, "keys": "AAAA", "bits": "1"},
        {"format": 1, "keys": "AAAAAAAAAAA=", "bits": "11"},
        {"format": 1, "keys": "AAAAAAAAAAA=", "bits": "3"},
        {"format": 1, "keys": "AAAAAAAAAAA=", "bits": "é"},
        {"format": 1, "keys": ["x"], "bits": "1"},
        {"format": 9, "keys": "", "bits": ""},
    ],
)
def test_a_damaged_split_is_refused(packed):
    with pytest.raises(DataError, match="ckpt: its split"):
        StoredSplit.unpack(packed)


@pytest.mark.parametrize("group_by", [None, r"^(\w+)/(\d)"])
def test_broken_excluded_or_relabelled_image_does_not_change_the_split_of_others(make, root, tmp_path, group_by):
    before = splits(make(root, group_by=group_by))
    gone = next(path for path, own in before.items() if own == ["test"]), next(iter(before))
    (tmp_path / "out.csv").write_text("path\n" + "\n".join(gone))
    out = splits(make(root, group_by=group_by, exclude=tmp_path / "out.csv"))
    assert out == {path: own for path, own in before.items() if path not in gone}
    (tmp_path / "new.csv").write_text("path,label\n" + "\n".join(f"{path},cup" for path in gone))
    assert splits(make(root, group_by=group_by, relabel=tmp_path / "new.csv")) == before
    (root / gone[0]).write_bytes(b"not an image")
    for cache in ("disk", "memory"):
        found = splits(make(root, group_by=group_by, cache=cache))
        assert found == {path: own for path, own in before.items() if path != gone[0]}
    assert splits(make(root, group_by=group_by, cache="off")) == before  # without a cache, no image is read yet


def test_known_images_keep_their_split_after_a_move_a_rename_and_changes(make, root, tmp_path, caplog):
    first = make(root)
    before = splits(first)
    stored = first.split_used.pack()
    other = tmp_path / "elsewhere"
    shutil.move(root, other)
    moved = make(other, stored_split=stored, seed=5, val_fraction=0.3)
    assert moved.is_training_data
    assert splits(moved) == before
    with caplog.at_level(logging.WARNING):
        for number in range(5):
            shutil.copy(tmp_path / "elsewhere/bag/0.png", other / f"cup/copy{number}.png")
            noisy = bytearray((other / "bag/1.png").read_bytes()) + bytes([number])
            (other / f"can/a{number}.png").write_bytes(noisy)
        gone = [path for path, own in before.items() if own == ["train"] and not path.startswith("bag")][:5]
        for path in gone:
            (other / path).unlink()
        name = next(path for path, own in before.items() if own == ["test"])
        (other / name).rename(other / "can/renamed.png")
        changed = splits(make(other, stored_split=stored))
    kept = {{name: "can/renamed.png"}.get(path, path): own for path, own in before.items() if path not in gone}
    extra = {path: own for path, own in changed.items() if path not in kept}
    assert {path: changed.get(path) for path in kept} == kept
    assert all(path.startswith("cup/copy") for path in extra), "copies of a known image are known"
    (line,) = [record.message for record in caplog.records if "split of the checkpoint" in record.message]
    assert "39 of its 44 images are present, 5 are missing; 5 images are new (left out" in line


def test_new_images_are_training_images_of_a_run_from_a_checkpoint(make, root):
    group_by = r"(\d+)\."
    first = make(root, group_by=group_by)
    before = splits(first)
    held_out = next(path for path, own in before.items() if own == ["test"])
    number = held_out.split("/")[1].removesuffix(".png")
    (root / "bag/977.png").write_bytes((root / "bag/1.png").read_bytes() + b"x")
    (root / f"cup/x{number}.png").write_bytes((root / "bag/2.png").read_bytes() + b"y")
    after = splits(make(root, group_by=group_by, stored_split=first.split_used, new_images="train"))
    assert after == before | {"bag/977.png": ["train"], f"cup/x{number}.png": ["test"]}


def test_other_images_are_split_again_and_known_images_keep_their_split(make, root, tmp_path):
    first = make(root)
    before = splits(first)
    trained = [path for path, own in before.items() if own == ["train"]][:3]
    other = noise(tmp_path / "other")
    for file in other.rglob("*.png"):
        file.write_bytes(file.read_bytes() + b"other")
    for number, path in enumerate(trained):
        shutil.copy(root / path, other / f"can/seen{number}.png")
    data = make(other, stored_split=first.split_used, classes=["bag", "can", "cup"])
    data.setup()
    assert not data.is_training_data
    seen = {row for row, sample in enumerate(data.samples) if "seen" in sample.path}
    assert set(range(len(data.samples))) - set(data.unseen.tolist()) == seen
    assert seen <= set(data.splits["train"].tolist())


def test_images_that_class_fraction_leaves_out_are_stored_as_unused(make, root):
    data = make(root, class_fraction={"bag": 0.5})
    own = data.split_used
    assert (own.bits == UNUSED).sum() == 7
    again = make(root, stored_split=own, seed=3)
    assert splits(again) == splits(data)


def test_training_images_of_an_earlier_run_stay_known():
    first = StoredSplit(np.array([1, 2, 3], np.uint64), np.array([TRAIN, TEST, TRAIN], np.uint8))
    second = StoredSplit(np.array([3, 4], np.uint64), np.array([TRAIN, TEST], np.uint8))
    both = StoredSplit.unpack(second.with_earlier_training(first).pack())
    assert both.look_up(np.array([1, 2, 3, 4], np.uint64)).tolist() == [EARLIER, NEW, TRAIN, TEST]
    assert both.missing(np.array([3], np.uint64)) == 1


def test_training_images_that_class_fraction_drops_later_are_not_unseen(make, root):
    whole = make(root)
    started = make(root, stored_split=whole.split_used, new_images="train", class_fraction={"bag": 0.5})
    stored = started.split_used.with_earlier_training(whole.split_used)
    assert (stored.bits == EARLIER).sum() == 7
    resumed = make(root, stored_split=StoredSplit.unpack(stored.pack()))
    assert splits(resumed) == splits(started)
    assert len(resumed.unseen) == len(whole.splits["test"])
    assert make(root, seed=3).trained_on(stored) == make(root, seed=3).trained_on(whole.split_used)


def test_duplicates_across_named_train_and_test_folders_are_counted(make, tmp_path, caplog):
    noise(tmp_path / "photos/train")
    for name in ("bag", "can", "cup"):
        (tmp_path / "photos/test" / name).mkdir(parents=True)
        for number in range(4):
            shutil.copy(tmp_path / f"photos/train/{name}/{number}.png", tmp_path / f"photos/test/{name}/t{number}.png")
    with caplog.at_level(logging.WARNING):
        splits(make(tmp_path / "photos", group_by="duplicates"))
    assert "12 groups have images both in train and in test" in caplog.text


def test_class_fraction_of_a_started_run_replaces_the_stored_one(make, root):
    whole = make(root)
    started = make(root, stored_split=whole.split_used, new_images="train", class_fraction={"bag": 0.5})
    assert (started.class_counts[0], whole.class_counts[0]) == (7, 14)
    back = make(root, stored_split=started.split_used, new_images="train")
    assert splits(back) == splits(whole)


def test_training_images_of_an_earlier_run_are_not_counted_as_missing(make, root, caplog):
    own = make(root).split_used
    earlier = StoredSplit(np.array([1, 2, 3], np.uint64), np.full(3, TRAIN, np.uint8))
    (root / "bag/0.png").rename(root / "bag/99.png")
    (root / "bag/new.png").write_bytes((root / "bag/1.png").read_bytes() + b"x")
    with caplog.at_level(logging.WARNING):
        splits(make(root, stored_split=own.with_earlier_training(earlier)))
    assert "44 of its 44 images are present, 0 are missing; 1 images are new" in caplog.text
