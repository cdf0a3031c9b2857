"""Damaged cache files, full disks and interrupted builds: training continues, and the log has one line."""

import errno
import logging
import os

import numpy as np
import pytest
from cache_images import SIZE, CountedImages, expected

from datamodules import cache
from datamodules.cache import key as cache_key
from datamodules.cache import open_pixels, store
from datamodules.cache.config import CacheConfig


@pytest.mark.parametrize("name", ["pixels.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["short", "long", "empty", "missing", "text", "another"])
def test_damaged_cache_is_built_again(opened, name, damage, caplog):
    _, pixels = opened()
    file = pixels.path / name
    whole = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "another":  # the file of another cache
        file.write_bytes((opened(size=SIZE + 1)[1].path / name).read_bytes())
    else:
        file.write_bytes({"short": whole[:-5], "long": whole + b"x", "empty": b"", "text": b"{}"}[damage])
    caplog.clear()
    source, pixels = opened()
    assert len(source.reads) == 6
    assert np.array_equal(pixels.array, expected(source))
    assert "damaged" in caplog.text
    assert opened()[0].reads == []


def test_full_check_finds_the_row_of_a_flipped_byte(opened):
    _, pixels = opened()
    file, row_bytes = pixels.path / "pixels.npy", SIZE * SIZE * 3
    whole = file.read_bytes()
    assert store.damaged_rows(pixels.path) == []
    for row in range(6):
        data = bytearray(whole)
        data[len(whole) - (6 - row) * row_bytes + row] ^= 1
        file.write_bytes(data)
        assert store.read(pixels.path) is not None
        assert store.damaged_rows(pixels.path) == [row]
    (pixels.path / "crc32.npy").write_bytes(b"")
    assert store.damaged_rows(pixels.path) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"x": 3}', b"\xff\xfe"])
def test_damaged_digest_index_is_ignored(opened, content, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_key, "SETTLED_NS", 0)
    opened()
    (index,) = (tmp_path / "cache/pixels").glob("digests-*.json")
    index.write_bytes(content)
    source, pixels = opened()
    assert np.array_equal(pixels.array, expected(source))


def test_cache_over_budget_is_not_built_and_logs_one_line(opened, tmp_path, caplog):
    source, pixels = opened(cache_budget_gb=1e-6)
    assert pixels is None
    assert source.reads == []
    assert len(caplog.records) == 1
    assert "data.cache_budget_gb=1e-06" in caplog.text


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_unwritable_disk_logs_one_line(opened, monkeypatch, tmp_path, caplog, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    source, pixels = opened()
    assert pixels.path is None
    assert np.array_equal(pixels.array, expected(source))
    assert len(source.reads) == 6
    assert [os.strerror(code) in record.message for record in caplog.records] == [True]
    assert not list((tmp_path / "cache/pixels").glob(".*"))
    monkeypatch.setattr(cache, "free_memory_gb", lambda: 0.0)
    assert opened()[1] is None
    assert "decoding in each epoch" in caplog.text


def test_full_disk_is_an_error_before_decoding(tmp_path):
    free_bytes = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    shape = (10, 1, free_bytes // 30 + 10**8, 3)
    with pytest.raises(OSError, match=r"No space left|File too large"):
        store.write(tmp_path / "x", shape, "", lambda _: pytest.fail("decoded"), lambda: True)
    assert list(tmp_path.iterdir()) == []


def test_disk_failure_at_the_end_of_the_build_logs_one_line(opened, monkeypatch, tmp_path, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.memmap, "flush", full)
    source, pixels = opened()
    assert pixels.path is None
    assert np.array_equal(pixels.array, expected(source))
    assert ["No space left" in record.message for record in caplog.records] == [True]
    assert {path.suffix for path in (tmp_path / "cache/pixels").iterdir()} <= {".lock"}


def test_folder_that_cannot_be_created_logs_one_line(opened, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    source, pixels = opened(cache_dir=tmp_path / "file")
    assert np.array_equal(pixels.array, expected(source))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_interrupted_build_leaves_no_files(root, tmp_path):
    class Interrupted(CountedImages):
        def read(self, index, min_side=None):
            if index == 4:
                raise KeyboardInterrupt
            return super().read(index, min_side)

    with pytest.raises(KeyboardInterrupt):
        open_pixels(Interrupted(root), SIZE, "pad", CacheConfig(cache_dir=tmp_path / "cache"), progress=False)
    assert {path.suffix for path in (tmp_path / "cache/pixels").iterdir()} <= {".lock"}
