"""The pixel cache: each image is decoded once, its pixels are correct, and changed images are decoded again."""

import os

import numpy as np
import pytest
from cache_images import SIZE, CountedImages, draw, expected
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import images
from datamodules.cache import key as cache_key
from datamodules.cache import open_pixels
from datamodules.cache.config import CacheConfig
from datamodules.sources.base import Sample


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_cached_pixels_equal_decoded_images(opened, where):
    for policy in images.POLICIES:
        source, pixels = opened(cache=where, policy=policy)
        assert np.array_equal(pixels.array, expected(source, policy))
        assert (pixels.path is None) == (where == "memory")


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4),
    st.integers(1, 20),
    st.sampled_from(images.POLICIES),
)
def test_cached_pixels_equal_decoded_images_for_any_size_and_policy(tmp_path_factory, sizes, size, policy):
    folder = tmp_path_factory.mktemp("any")
    for number, shape in enumerate(sizes):
        draw(folder / f"{number}.png", number, shape)
    source = CountedImages(folder)
    for _ in range(2):
        pixels = open_pixels(
            source, size, policy, CacheConfig(cache_dir=tmp_path_factory.getbasetemp() / "c"), progress=False
        )
        assert np.array_equal(pixels.array, expected(source, policy, size))


def test_second_run_decodes_nothing_and_pixels_are_read_only(opened):
    opened()
    source, pixels = opened()
    assert source.reads == []
    with pytest.raises(ValueError, match="read-only"):
        pixels.array[0] = 0


def test_unchanged_files_are_not_read(opened, monkeypatch):
    source, _ = opened()
    assert set(source.digests) == set(range(6))
    source, _ = opened()
    assert set(source.digests) == set(range(6))  # modified too recently: their time stamps are not used
    monkeypatch.setattr(cache_key, "SETTLED_NS", 0)
    opened()
    source, pixels = opened()
    assert source.digests == []
    assert np.array_equal(pixels.array, expected(source))


@pytest.mark.parametrize("settled", [0, cache_key.SETTLED_NS])
def test_changed_image_is_decoded_again(opened, root, monkeypatch, settled):
    monkeypatch.setattr(cache_key, "SETTLED_NS", settled)
    _, before = opened()
    times = (root / "3.png").stat()
    draw(root / "3.png", 99)
    os.utime(root / "3.png", ns=(times.st_atime_ns, times.st_mtime_ns))  # as rsync and unzip do
    source, after = opened()
    assert np.array_equal(after.array, expected(source))
    assert not np.array_equal(after.array[3], before.array[3])
    assert np.array_equal(after.array[2], before.array[2])


def test_size_policy_box_order_and_count_have_separate_caches(opened, root, tmp_path):
    paths = {opened(size=size, policy=policy)[1].path for size in (SIZE, 9) for policy in ("pad", "crop")}
    source = CountedImages(root)
    whole = source.samples
    for samples in (
        whole[::-1],
        whole[:3],
        [Sample(s.path, 0, box=(0, 0, 9, 9)) for s in whole],
        [Sample(s.path, 0, box=(0, 0, 9, 8)) for s in whole],
    ):
        source.samples = samples
        paths.add(open_pixels(source, SIZE, "pad", CacheConfig(cache_dir=tmp_path / "cache"), progress=False).path)
    assert len(paths) == 8


def test_broken_images_are_grey_until_they_are_repaired(opened, root):
    whole = (root / "2.jpg").read_bytes()
    (root / "2.jpg").write_bytes(whole[:100])
    (root / "3.png").write_bytes(b"")
    for _ in range(2):
        _, pixels = opened()
        assert set(pixels.broken) == {2, 3}
        assert pixels.broken[3] == "is empty"
        assert (pixels.array[[2, 3]] == images.GREY).all()
    (root / "2.jpg").write_bytes(whole)
    assert set(opened()[1].broken) == {3}


def test_deleted_image_is_broken(root, tmp_path):
    source = CountedImages(root)
    (root / "4.jpg").unlink()
    pixels = open_pixels(source, SIZE, "pad", CacheConfig(cache_dir=tmp_path), progress=False)
    assert "No such file" in pixels.broken[4]


def test_image_changed_during_the_build_gets_a_new_cache(root, tmp_path):
    class Changing(CountedImages):
        def read(self, index, min_side=None):
            if not self.reads:
                draw(root / "0.jpg", 77)
            return super().read(index, min_side)

    first = Changing(root)
    old = (root / "0.jpg").read_bytes()
    pixels = open_pixels(first, SIZE, "pad", CacheConfig(cache_dir=tmp_path), progress=False)
    assert np.array_equal(pixels.array, expected(first))
    (root / "0.jpg").write_bytes(old)
    again = CountedImages(root)
    assert np.array_equal(
        open_pixels(again, SIZE, "pad", CacheConfig(cache_dir=tmp_path), progress=False).array, expected(again)
    )
