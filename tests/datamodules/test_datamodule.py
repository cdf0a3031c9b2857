"""The data module on small image files: batches, quarantine and splits."""

import csv
import logging
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from policies import policy
from toy_images import CLASSES, SIZE, data_module, noise

from datamodules import images
from datamodules.augment.mix import Mixing
from datamodules.samplers import ShuffleSampler, WeightedSampler
from datamodules.sources.filelist import FileListSource
from datamodules.sources.folder import FolderSource
from litesort.errors import DataError


@pytest.fixture
def root(tmp_path):
    return noise(tmp_path / "photos")


@pytest.fixture
def make(tmp_path, root):
    return partial(data_module, root, tmp_path / "cache")


def ready(data):
    data.prepare_data()
    data.setup()
    return data


def break_images(root):
    """Break three images, each in a different way; returns their paths."""
    (root / "bag" / "3.png").write_text("not an image")
    (root / "can" / "5.png").write_bytes((root / "can" / "5.png").read_bytes()[:60])
    (root / "can" / "6.png").write_bytes(b"")
    return {"bag/3.png", "can/5.png", "can/6.png"}


def test_a_batch_is_bytes_on_the_host_and_floats_on_the_device(make):
    data = ready(make())
    batch = next(iter(data.train_dataloader()))
    assert (batch.images.shape, batch.images.dtype) == ((8, SIZE, SIZE, 3), torch.uint8)
    assert (batch.targets.dtype, batch.indices.dtype, batch.draws) == (torch.int64, torch.int64, None)
    done = data.on_after_batch_transfer(batch, 0)
    assert (done.images.shape, done.images.dtype) == ((8, 3, SIZE, SIZE), torch.float32)
    assert done.images.is_contiguous(memory_format=torch.channels_last)
    for image, target, index in zip(done.images, done.targets, done.indices, strict=True):
        expected = images.load(data.source.file(int(index)), SIZE, "pad")
        np.testing.assert_array_equal((image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy(), expected)
        assert int(target) == data.samples[int(index)].label


@pytest.mark.parametrize("size", [1, 3])
def test_batch_of_one_image(make, size):
    data = ready(make(eval_batch_size=1, size=size))
    done = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    assert done.images.shape == (1, 3, size, size)


def test_splits_hold_every_image_once_and_every_class(make):
    data = ready(make())
    rows = np.sort(np.concatenate(list(data.splits.values())))
    np.testing.assert_array_equal(rows, np.arange(44))
    assert data.classes == list(CLASSES)
    assert data.class_counts == np.bincount(data.labels[data.splits["train"]]).tolist()
    assert all(len(set(data.labels[own].tolist())) == 3 for own in data.splits.values())
    assert data.preprocessing == {"size": SIZE, "resize": "pad"}


def seen(loader):
    return torch.cat([batch.indices for batch in loader]).tolist()


def test_loader_gives_a_split_once_in_order_and_without_augmentation(make):
    data = ready(make(augment=policy(num_ops=1, hflip=1.0), sampler=WeightedSampler))
    assert seen(data.loader("all")) == list(range(44))
    for split in ("train", "val", "test"):
        assert seen(data.loader(split)) == data.splits[split].tolist()
        assert all(batch.draws is None for batch in data.loader(split))
        assert sorted(seen(data.loader(split, shuffle=True))) == data.splits[split].tolist()
    assert seen(data.test_dataloader()) == data.splits["test"].tolist() == seen(data.predict_dataloader())
    in_order, mixed = (next(iter(data.loader("train", mixed))).targets[:8].unique() for mixed in (False, True))
    assert len(in_order) < len(mixed) == 3
    with pytest.raises(DataError, match="split=all_of_it"):
        data.loader("all_of_it")


def test_seed_decides_split_order_and_pixels(make):
    def first(seed):
        data = ready(make(seed=seed, augment=policy()))
        batch = next(iter(data.train_dataloader()))
        return data.splits["test"].tolist(), batch.indices.tolist(), data.on_after_batch_transfer(batch, 0).images

    a, b, c = first(3), first(3), first(4)
    assert a[:2] == b[:2]
    assert torch.equal(a[2], b[2])
    assert a[0] != c[0]
    assert a[1] != c[1]


def test_training_batches_are_augmented_and_mixed(make):
    data = ready(make(augment=policy(hflip=1.0, num_ops=0, mixing=Mixing(mixup_alpha=0.4))))
    batch = next(iter(data.train_dataloader()))
    done = data.on_after_batch_transfer(batch, 0)
    assert done.draws is None
    assert done.images.dtype == torch.float32
    assert done.targets.shape == (8, 3)
    torch.testing.assert_close(done.targets.sum(1), torch.ones(8))


def test_broken_images_are_left_out_and_listed_with_one_warning(make, root, tmp_path, caplog):
    broken = break_images(root)
    data = make(quarantine_dir=tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        ready(data)
        data.setup("fit")
    assert {data.samples[row].path for row in data.broken} == broken
    rows = np.sort(np.concatenate(list(data.splits.values())))
    np.testing.assert_array_equal(rows, np.setdiff1d(np.arange(44), list(data.broken)))
    assert seen(data.loader("all")) == rows.tolist()
    with (tmp_path / "run" / "quarantine.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert {line["path"] for line in listed} == broken
    assert all(line["reason"] for line in listed)
    lines = [record.getMessage() for record in caplog.records if record.name == "datamodules.quarantine"]
    assert len(lines) == 1
    assert "3 of 44 images" in lines[0]
    assert str(tmp_path / "run" / "quarantine.csv") in lines[0]


def test_rows_are_readable_images_also_before_setup(make, root):
    break_images(root)
    assert len(make().rows) == 41


def test_on_error_raise_raises_for_broken_images(make, root):
    break_images(root)
    with pytest.raises(DataError, match=r"on_error=raise, .*bag/3\.png: \w+"):
        ready(make(on_error="raise"))


def test_no_readable_image_raises_data_error(make, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "bad" / name).mkdir(parents=True)
        (tmp_path / "bad" / name / "1.jpg").write_text("no")
    with pytest.raises(DataError, match=r"none of the 2 images can be read; the first is a/1\.jpg: "):
        ready(make(source=FolderSource(tmp_path / "bad")))


def test_class_with_only_broken_images_is_refused(make, root):
    for file in (root / "cup").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match="no readable image of class cup"):
        make().setup("fit")


def test_without_a_cache_the_pixels_are_the_same(make):
    mapped, decoded = ready(make()), ready(make(cache="off"))
    memory = ready(make(cache="memory"))
    for a, b, c in zip(*(data.loader("test") for data in (mapped, decoded, memory)), strict=True):
        assert torch.equal(a.indices, b.indices)
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.images, c.images)
    assert not list(make(cache="off").broken)


def test_without_a_cache_broken_images_are_listed_when_read(make, root, tmp_path, caplog):
    broken = break_images(root)
    data = ready(make(cache="off", quarantine_dir=tmp_path))
    with caplog.at_level(logging.WARNING):
        got = seen(data.loader("all"))
    assert len(got) == 41
    with (tmp_path / "quarantine.csv").open(newline="") as file:
        assert {line["path"] for line in csv.DictReader(file)} == broken
    assert len([record for record in caplog.records if record.name == "datamodules.quarantine"]) == 1
    with pytest.raises(DataError, match="on_error=raise"):
        seen(ready(make(cache="off", on_error="raise")).loader("all"))


def test_training_uses_the_memory_map_without_a_copy(make):
    data = ready(make())
    array = data.train_dataloader().array
    while not isinstance(array, np.memmap):  # views of the mapped file, no copy
        assert array.base is not None
        array = array.base
    assert array.nbytes >= 44 * SIZE * SIZE * 3


def test_classes_of_a_trained_network_are_mapped_by_name(make, root):
    order = ["cup", "glass", "bag", "can"]
    data = ready(make(classes=order))
    assert data.classes == order
    names = [order[label] for label in data.labels]
    assert names == [sample.path.split("/")[0] for sample in data.samples]
    assert set(data.labels[data.splits["test"]].tolist()) == {0, 2, 3}
    with pytest.raises(DataError, match=r"class can, cup is not a class of the network \(bag, glass\)"):
        make(classes=["bag", "glass"])


def test_one_class_can_be_evaluated(make, tmp_path, root):
    (tmp_path / "few").mkdir()
    (root / "can").rename(tmp_path / "few" / "can")
    data = ready(make(source=FolderSource(tmp_path / "few"), classes=list(CLASSES)))
    assert set(torch.cat([batch.targets for batch in data.loader("all")]).tolist()) == {1}


def test_ranks_read_disjoint_images(make):
    ranks = []
    for rank in (0, 1):
        data = ready(make(batch_size=4))
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        train, val = data.train_dataloader(), data.val_dataloader()
        ranks.append((set(seen(train)), seen(val), len(train)))
    # both ranks make the same number of steps: one of an odd number of images goes to both
    assert len(ranks[0][0] & ranks[1][0]) <= 1
    assert ranks[0][2] == ranks[1][2]
    assert sorted(set(ranks[0][1]) | set(ranks[1][1])) == data.splits["val"].tolist()


def test_groups_and_splits_of_a_list_are_honoured(make, tmp_path, root, caplog):
    lines = ["path,label,group"]
    lines += [f"{name}/{i}.png,{name},{name}{i // 2}" for name, count in CLASSES.items() for i in range(count)]
    (root / "list.csv").write_text("\n".join(lines))
    data = ready(make(source=FileListSource(root / "list.csv")))
    groups = [{data.samples[row].group for row in rows} for rows in data.splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))
    marked = [
        "path,label,split",
        *[f"{line.rsplit(',', 1)[0]},{('train', 'val')[i % 2]}" for i, line in enumerate(lines[1:])],
    ]
    (root / "list.csv").write_text("\n".join(marked))
    with caplog.at_level(logging.WARNING):
        data = ready(make(source=FileListSource(root / "list.csv")))
        assert data.splits["test"].tolist() == data.splits["val"].tolist()
    assert "data: the source defines no test split" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": "ram"}, "data.cache=ram"),
        ({"on_error": "ignore"}, "data.on_error=ignore"),
        ({"resize": "stretch"}, "data.resize=stretch"),
        ({"resize": "stretch", "cache": "off"}, "data.resize=stretch"),
        ({"size": 0}, "data.size=0"),
        ({"size": 0, "cache": "off"}, "data.size=0"),
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"group_by": "nothing(.)"}, "data.group_by=nothing"),
        ({"num_workers": "many", "cache": "off"}, "data.num_workers=many"),
        ({"num_workers": "many"}, "data.num_workers=many"),
    ],
)
def test_invalid_settings_raise_data_error(make, options, message):
    with pytest.raises(DataError, match=message) as caught:
        ready(make(**options)).train_dataloader()
    assert "\n" not in str(caught.value)


@pytest.mark.public_data("trashnet")
def test_split_keeps_neighbouring_numbers_of_trashnet_together(make, public_data):
    source = FolderSource(public_data / "trashnet")
    data = make(source=source, cache="off", group_by=r"([a-z]+)(\d+)\.jpg$", group_block=10)
    splits_of = {}
    for split, rows in data.splits.items():
        for row in rows:
            name = Path(data.samples[row].path).stem
            letters = name.rstrip("0123456789")
            splits_of.setdefault((letters, int(name[len(letters) :]) // 10), set()).add(split)
    assert all(len(splits) == 1 for splits in splits_of.values())
    total = np.bincount(data.labels)
    for split, fraction in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        counts = np.bincount(data.labels[data.splits[split]], minlength=6)
        assert (np.abs(counts - fraction * total) <= 20).all()


def test_drawn_counts_follow_the_sampler(make):
    uneven = make(sampler=partial(WeightedSampler, power=0.0))
    assert uneven.drawn_counts == uneven.class_counts
    even = make(sampler=partial(WeightedSampler, power=1.0))
    assert len(set(even.class_counts)) > 1
    assert len(set(even.drawn_counts)) == 1
    assert make(sampler=ShuffleSampler).drawn_counts == uneven.class_counts
