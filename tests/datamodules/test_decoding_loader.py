"""Decoding without a cache: the batches of the cache, without unreadable images."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import images
from datamodules.loader import DecodingLoader, PixelLoader, auto_workers
from datamodules.samplers import OrderedSampler, ShuffleSampler
from datamodules.sources.base import Sample, Source
from litesort.errors import DataError

LABELS = np.arange(40) % 3
ARRAY = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)


class Files(Source):
    def __init__(self, root: Path) -> None:
        self.root, self.classes = root, ["a", "b"]
        self.samples = [Sample(path.name, 0) for path in sorted(root.iterdir())]


@pytest.fixture
def files(tmp_path) -> Files:
    for number in range(9):
        Image.fromarray(ARRAY[number].repeat(5, 0)).save(tmp_path / f"{number}.png")
    return Files(tmp_path)


def decoding(source, batch_size=4, **options):
    sampler = ShuffleSampler(LABELS[:9], seed=1)
    rows = np.arange(9)
    return DecodingLoader(source, 8, "pad", LABELS[:9], rows, sampler, batch_size, **options)


@pytest.mark.parametrize("workers", [0, 1])
def test_decoding_on_the_fly_gives_the_batches_of_the_cache(files, workers):
    pixels = np.stack([images.load(files.file(i), 8, "pad") for i in range(9)])
    cached = PixelLoader(
        pixels, LABELS[:9], np.arange(9), ShuffleSampler(LABELS[:9], seed=1), 4, draw=lambda keys, size: keys.copy()
    )
    feed = decoding(files, num_workers=workers, draw=lambda keys, size: keys.copy())
    state = torch.get_rng_state()
    for epoch in range(2):
        feed.sampler.set_epoch(epoch)
        cached.sampler.set_epoch(epoch)
        assert len(feed) == len(cached) == 3
        for one, other in zip(feed, cached, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))
            assert np.array_equal(one.draws, other.draws)
    assert torch.equal(torch.get_rng_state(), state)


def test_broken_images_are_left_out_recorded_and_logged_once(files, caplog):
    whole = {
        row: key
        for b in decoding(files, num_workers=0, draw=lambda keys, size: keys.copy())
        for row, key in zip(b.indices.tolist(), b.draws, strict=True)
    }
    for name in ("2.png", "5.png"):
        (files.root / name).write_bytes(b"damaged")
    caplog.set_level(logging.WARNING)  # other libraries raise the level of the root logger
    feed = decoding(files, num_workers=0, draw=lambda keys, size: keys.copy())
    for _ in range(2):
        kept = {row: key for batch in feed for row, key in zip(batch.indices.tolist(), batch.draws, strict=True)}
        assert kept == {row: key for row, key in whole.items() if row not in (2, 5)}
    assert set(feed.broken) == {2, 5}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_batch_of_broken_images_is_skipped_or_an_error(files):
    for path in files.root.iterdir():
        path.write_bytes(b"damaged")
    reported = []
    assert list(decoding(files, num_workers=0, on_broken=lambda row, reason: reported.append(row))) == []
    assert sorted(reported) == list(range(9))

    def fail(row, reason):
        raise DataError(reason)

    with pytest.raises(DataError):
        list(decoding(files, num_workers=0, on_broken=fail))


def test_workers_and_sizes_are_checked():
    assert 1 <= auto_workers("auto") <= 8
    assert auto_workers(0) == 0
    for wrong in (-1, "many", 1.5):
        with pytest.raises(DataError, match=r"data\.num_workers"):
            auto_workers(wrong)
    with pytest.raises(DataError, match=r"data\.batch_size=0"):
        PixelLoader(ARRAY, LABELS, np.arange(40), OrderedSampler(LABELS), 0)
