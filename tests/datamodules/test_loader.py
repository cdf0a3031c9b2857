"""Images, labels and keys of batches belong together, and their order does not depend on threads or ranks."""

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import tiny_trainer

import datamodules
from datamodules.augment.draw_plan import Plan
from datamodules.augment.mix import MixDraws
from datamodules.augment.pipeline import Draws, OnHost
from datamodules.loader import EpochBatches, PixelLoader
from datamodules.samplers import OrderedSampler, ShuffleSampler, WeightedSampler

LABELS = np.arange(40) % 3
ARRAY = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
ROWS = np.arange(5, 36)


def loader(kind=ShuffleSampler, batch_size=4, rows=ROWS, *, rank=0, world_size=1, seed=3, **options):
    sampler = kind(LABELS[rows], seed=seed, rank=rank, world_size=world_size)
    return PixelLoader(ARRAY, LABELS, rows, sampler, batch_size, **options)


def feed_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_a_batch_is_pixels_labels_and_rows_that_belong_together():
    seen = []
    for batch in loader():
        assert batch.images.dtype == torch.uint8
        assert batch.targets.dtype == batch.indices.dtype == torch.int64
        assert torch.equal(batch.images, torch.from_numpy(ARRAY)[batch.indices])
        assert torch.equal(batch.targets, torch.from_numpy(LABELS)[batch.indices])
        assert batch.draws is None
        seen += batch.indices.tolist()
    assert sorted(seen) == ROWS.tolist()


@pytest.mark.parametrize("kind", [ShuffleSampler, WeightedSampler, OrderedSampler])
def test_pixel_loader_is_independent_of_prefetch(kind):
    runs = [list(loader(kind, prefetch=prefetch, draw=lambda keys, size: keys.copy())) for prefetch in (0, 1, 2, 50)]
    for run in runs[1:]:
        for one, other in zip(run, runs[0], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))
            assert np.array_equal(one.draws, other.draws)


def test_pixel_loader_keeps_referenced_batches():
    kept = [batch.images[1:].permute(0, 3, 1, 2) for batch in loader(OrderedSampler)]  # views only
    gc.collect()
    for batch, expected in zip(kept, ROWS.reshape(-1)[:28].reshape(7, 4), strict=False):
        assert np.array_equal(batch.permute(0, 2, 3, 1), ARRAY[expected[1:]])


def test_keys_do_not_depend_on_batch_size_or_ranks():
    def keys(**options):
        return {
            (row, int(key))
            for rank in range(options.get("world_size", 1))
            for batch in loader(draw=lambda keys, size: keys.copy(), rows=np.arange(40), rank=rank, **options)
            for row, key in zip(batch.indices.tolist(), batch.draws, strict=True)
        }

    assert keys() == keys(batch_size=7) == keys(world_size=2) == keys(world_size=4, batch_size=1)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 4), st.booleans())
@settings(max_examples=80, deadline=None)
def test_all_ranks_make_equal_steps_and_evaluation_reads_each_image_once(n, batch_size, world_size, drop_last):
    world_size = min(world_size, n)
    ranks = [
        loader(OrderedSampler, batch_size, np.arange(n), rank=r, world_size=world_size, drop_last=drop_last, prefetch=0)
        for r in range(world_size)
    ]
    batches = [list(rank) for rank in ranks]
    assert {len(of_rank) for of_rank in batches} == {len(ranks[0])}
    sizes = [len(batch.indices) for of_rank in batches for batch in of_rank]
    assert min(sizes) >= 1
    assert max(sizes) <= batch_size
    seen = [row for of_rank in batches for batch in of_rank for row in batch.indices.tolist()]
    if not drop_last and batch_size > 1:
        assert sorted(seen) == list(range(n))
    if drop_last and world_size == 1 and n >= batch_size:
        assert set(sizes) == {batch_size}


def test_pixel_loader_thread_ends_when_iterator_is_abandoned():
    for number, _ in enumerate(loader()):
        if number == 1:
            assert feed_threads()
            break
    gc.collect()
    assert not feed_threads()
    iterator = iter(loader())
    next(iterator)
    iterator.close()
    assert not feed_threads()


@pytest.mark.parametrize("prefetch", [0, 2])
def test_error_in_a_batch_is_raised_at_its_position(prefetch):
    calls = []

    def draw(keys, size):
        calls.append(keys)
        if len(calls) == 4:
            raise RuntimeError("no such operation")
        return keys

    seen = []
    with pytest.raises(RuntimeError, match="no such operation"):
        seen.extend(loader(draw=draw, prefetch=prefetch))
    assert len(seen) == 3
    assert not feed_threads()


def test_iterators_are_independent():
    feed = loader(OrderedSampler)
    assert [torch.equal(a.indices, b.indices) for a, b in zip(feed, feed, strict=True)] == [True] * len(feed)


STOPPED = """
import numpy as np
from datamodules.loader import PixelLoader
from datamodules.samplers import ShuffleSampler
sampler = ShuffleSampler(np.zeros(99, int))
feed = iter(PixelLoader(np.zeros((99, 8, 8, 3), np.uint8), np.zeros(99), np.arange(99), sampler, 2))
next(feed)
print("done")
"""


def test_process_exits_in_the_middle_of_an_epoch():
    environment = os.environ | {"PYTHONPATH": str(Path(datamodules.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", STOPPED], env=environment, timeout=100, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


class Tiny(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: dict[int, list[int]] = {}

    def training_step(self, batch, _):
        self.seen.setdefault(self.current_epoch, []).extend(batch.indices.tolist())
        return self.layer(batch.images.float().mean((1, 2, 3))[:, None] / 255).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore::FutureWarning", "ignore::DeprecationWarning"
)
def test_lightning_sets_the_epoch_and_a_resumed_run_has_the_same_order(tmp_path):
    def fit(epochs, resume=None):
        module = Tiny()
        trainer = tiny_trainer(tmp_path, max_epochs=epochs)
        trainer.fit(module, loader(), ckpt_path=resume, weights_only=True)
        return module, trainer

    whole, _ = fit(3)
    assert len({tuple(order) for order in whole.seen.values()}) == 3
    for epoch, order in whole.seen.items():
        sampler = ShuffleSampler(LABELS[ROWS], seed=3)
        sampler.set_epoch(epoch)
        assert order == ROWS[sampler.order()].tolist()
    _, trainer = fit(2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fit(3, tmp_path / "half.ckpt")
    assert resumed.seen == {2: whole.seen[2]}


def test_draws_are_pinned_with_the_batch(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    mix = MixDraws("mixup", {"pairs": torch.zeros(2, dtype=torch.int64)})
    plan = Plan(torch.zeros(3, dtype=torch.int64), torch.zeros(4))
    draws = Draws((plan, {"angle": torch.zeros(2)}, OnHost({"sigma": torch.zeros(2)}), 7), mix)
    labels = np.zeros(2, dtype=np.int64)
    batches = EpochBatches(labels, np.arange(2), OrderedSampler(labels), 2, False, lambda keys, size: draws)
    batch = batches.batch(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), np.arange(2), np.zeros(2, np.uint64), pin=True)
    expected = [batch.targets, batch.indices, plan.rows, plan.numbers, draws.steps[1]["angle"], mix.params["pairs"]]
    assert {id(tensor) for tensor in pinned} == {id(tensor) for tensor in expected}
