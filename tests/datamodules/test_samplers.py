"""Orders depend only on seed and epoch, are divided among the ranks, and have the expected class frequencies."""

import json
import os
from pathlib import Path

import entry_points
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import datamodules
from datamodules.samplers import OrderedSampler, ShuffleSampler, WeightedSampler, class_weights, hash64
from litesort.errors import DataError

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60)
WORLDS = st.integers(1, 5)
SEEDS = st.integers(0, 2**63)


def orders(kind, labels, world_size, epoch=0, **options):
    samplers = [kind(labels, rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return samplers


@given(LABELS, WORLDS, SEEDS, st.integers(0, 99))
def test_shuffling_shows_every_image_and_gives_ranks_equal_shares(labels, world_size, seed, epoch):
    samplers = orders(ShuffleSampler, labels, world_size, epoch, seed=seed)
    shares = [list(sampler) for sampler in samplers]
    assert {len(share) for share in shares} == {len(samplers[0])}
    together = np.concatenate(shares)
    assert set(together) == set(range(len(labels)))
    assert len(together) < len(labels) + world_size
    assert np.bincount(together).max() <= 1 + -(-(world_size - 1) // len(labels))


@given(LABELS, WORLDS, SEEDS, st.sampled_from([ShuffleSampler, WeightedSampler]))
def test_ranks_take_strides_of_one_order_and_of_its_keys(labels, world_size, seed, kind):
    samplers = orders(kind, labels, world_size, 3, seed=seed)
    (whole,) = orders(kind, labels, 1, 3, seed=seed)
    for got, expected in (
        (np.stack([s.order() for s in samplers], 1), whole.order()),
        (np.stack([s.keys() for s in samplers], 1), whole.keys()),
    ):
        assert np.array_equal(got.reshape(-1)[: len(labels)], expected)
    assert len({key for s in samplers for key in s.keys().tolist()}) == len(samplers[0]) * world_size


@given(LABELS, WORLDS)
def test_evaluation_sees_every_image_exactly_once_in_order(labels, world_size):
    samplers = orders(OrderedSampler, labels, world_size)
    assert sorted(place for s in samplers for place in s) == list(range(len(labels)))
    assert all(np.all(np.diff(s.order()) == world_size) for s in samplers)
    assert {s.longest for s in samplers} == {max(len(s) for s in samplers)}


@pytest.mark.parametrize("kind", [ShuffleSampler, WeightedSampler])
def test_epochs_and_seeds_differ_and_repeat_exactly(kind):
    sampler, labels = kind(np.arange(200) % 3, seed=1), np.arange(200) % 3
    first = sampler.order(), sampler.keys()
    sampler.set_epoch(1)
    assert not np.array_equal(sampler.order(), first[0])
    assert not set(sampler.keys().tolist()) & set(first[1].tolist())
    sampler.set_epoch(0)
    assert np.array_equal(sampler.order(), first[0])
    assert not np.array_equal(kind(labels, seed=2).order(), first[0])


@given(st.lists(st.integers(0, 3), min_size=4, max_size=50), st.floats(0, 1))
def test_weights_follow_the_formula(labels, power):
    counts = np.bincount(labels)
    expected = np.array([1 / counts[label] ** power for label in labels])
    assert np.allclose(class_weights(np.array(labels), power), expected / expected.sum())


@pytest.mark.parametrize(("power", "rare"), [(0.0, 0.1), (0.5, 0.25), (1.0, 0.5)])
def test_class_frequencies_follow_the_power(power, rare):
    labels = np.array([0] * 9000 + [1] * 1000)
    sampler = WeightedSampler(labels, power=power, seed=5)
    drawn = sampler.order()
    assert abs(labels[drawn].mean() - rare) < 4 * np.sqrt(rare * (1 - rare) / 10000)
    spread = np.bincount(drawn, minlength=10000)[9000:]  # equal rates within a class: Poisson
    assert abs(spread.var() / spread.mean() - 1) < 0.25


@pytest.mark.parametrize("power", [-0.1, 1.5, float("nan")])
def test_weighted_sampler_invalid_power_raises_data_error(power):
    with pytest.raises(DataError, match=r"sampler\.power"):
        WeightedSampler([0, 1], power=power)


def test_samplers_without_images_or_with_wrong_rank_raise_data_error():
    with pytest.raises(DataError, match="no images"):
        ShuffleSampler([])
    with pytest.raises(DataError, match="rank=2"):
        ShuffleSampler([0], rank=2, world_size=2)


def test_hashes_look_random_in_every_bit():
    keys = np.concatenate([hash64(seed, epoch, np.arange(500)) for seed in range(4) for epoch in range(4)])
    assert len(set(keys.tolist())) == len(keys)
    bits = (keys[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 4.5 * 0.5 / np.sqrt(len(keys))


def test_the_order_is_the_same_on_every_machine_and_version():
    assert ShuffleSampler(range(8), seed=7).order().tolist() == [6, 2, 3, 0, 5, 7, 4, 1]
    assert hash64(7, 1, np.arange(2)).tolist() == [16078131282710743680, 5879030085058815449]


RANK = """
import json, sys
import numpy as np, torch, torch.distributed as dist
from datamodules.samplers import ShuffleSampler, WeightedSampler
rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
labels = np.array([0] * 900 + [1] * 101)
result = {}
for kind, options in ((ShuffleSampler, {}), (WeightedSampler, {"power": 1.0})):
    epochs = []
    for epoch in range(2):
        sampler = kind(labels, seed=3, rank=dist.get_rank(), world_size=dist.get_world_size(), **options)
        sampler.set_epoch(epoch)
        mine = torch.tensor(sampler.order())
        shares = [torch.empty_like(mine) for _ in range(2)]
        dist.all_gather(shares, mine)
        keys = torch.tensor(sampler.keys().view(np.int64))
        all_keys = [torch.empty_like(keys) for _ in range(2)]
        dist.all_gather(all_keys, keys)
        epochs.append({"shares": [s.tolist() for s in shares], "keys": [k.tolist() for k in all_keys]})
    result[kind.__name__] = epochs
if rank == 0:
    json.dump(result, open(out, "w"))
dist.destroy_process_group()
"""


def test_two_gloo_processes_share_an_epoch(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(datamodules.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    (script := tmp_path / "rank.py").write_text(RANK)
    arguments = [str(tmp_path / "store"), str(tmp_path / "out.json")]
    ranks = [entry_points.start(str(script), str(r), *arguments, cwd=tmp_path, env=environment) for r in (0, 1)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    result = json.loads((tmp_path / "out.json").read_text())
    for epochs in result.values():
        for epoch in epochs:
            assert len(epoch["shares"][0]) == len(epoch["shares"][1]) == 501
            assert not set(epoch["keys"][0]) & set(epoch["keys"][1])
        assert epochs[0]["shares"] != epochs[1]["shares"]
    for epoch in result["ShuffleSampler"]:
        mine, other = map(set, epoch["shares"])
        assert mine | other == set(range(1001))
        assert len(mine & other) == 1  # 1001 images, 2 ranks: one image is repeated
    drawn = np.concatenate([share for epoch in result["WeightedSampler"] for share in epoch["shares"]])
    assert abs((drawn >= 900).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(drawn))
