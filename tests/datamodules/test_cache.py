"""Decode once: never stale, never half built, never a reason to stop."""

import errno
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import datamodules
from datamodules import DataError, cache, cache_clean, cache_file, cache_key, images
from datamodules.cache import open_pixels
from datamodules.sources.base import Sample, Source

SIZE = 12


class Photos(Source):
    """A folder of photos that counts how often it is asked."""

    def __init__(self, root: Path) -> None:
        self.root, self.classes = root, ["a"]
        self.samples = [Sample(path.name, 0) for path in sorted(root.iterdir())]
        self.reads: list[int] = []
        self.digests: list[int] = []

    def read(self, index: int, min_side: int | None = None) -> np.ndarray:
        self.reads.append(index)
        return super().read(index, min_side)

    def digest(self, index: int) -> bytes:
        self.digests.append(index)
        return super().digest(index)


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (20, 30)) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        draw(folder / f"{number}.{'png' if number % 2 else 'jpg'}", number)
    return folder


@pytest.fixture
def opened(root, tmp_path):
    """Open the folder's cache anew, as another run would."""

    def opener(**options):
        source = Photos(root)
        options = {"size": SIZE, "policy": "pad", "cache_dir": tmp_path / "cache", "progress": False} | options
        return source, open_pixels(source, **options)

    return opener


def expected(source: Photos, policy: str = "pad", size: int = SIZE) -> np.ndarray:
    return np.stack([images.load(source.file(i), size, policy) for i in range(len(source.samples))])


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_the_cache_holds_what_load_returns(opened, where):
    for policy in images.POLICIES:
        source, pixels = opened(where=where, policy=policy)
        assert np.array_equal(pixels.array, expected(source, policy))
        assert (pixels.path is None) == (where == "memory")


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4),
    st.integers(1, 20),
    st.sampled_from(images.POLICIES),
)
def test_any_sizes_and_policies(tmp_path_factory, sizes, size, policy):
    folder = tmp_path_factory.mktemp("any")
    for number, shape in enumerate(sizes):
        draw(folder / f"{number}.png", number, shape)
    source = Photos(folder)
    for _ in range(2):
        pixels = open_pixels(source, size, policy, cache_dir=tmp_path_factory.getbasetemp() / "c", progress=False)
        assert np.array_equal(pixels.array, expected(source, policy, size))


def test_the_second_run_decodes_nothing_and_cannot_write(opened):
    opened()
    source, pixels = opened()
    assert source.reads == []
    with pytest.raises(ValueError, match="read-only"):
        pixels.array[0] = 0


def test_files_that_did_not_change_are_not_even_read(opened, monkeypatch):
    source, _ = opened()
    assert set(source.digests) == set(range(6))
    source, _ = opened()
    assert set(source.digests) == set(range(6))  # too young to trust their time stamps
    monkeypatch.setattr(cache_key, "SETTLED_NS", 0)
    opened()
    source, pixels = opened()
    assert source.digests == []
    assert np.array_equal(pixels.array, expected(source))


@pytest.mark.parametrize("settled", [0, cache_key.SETTLED_NS])
def test_a_changed_photo_is_never_stale(opened, root, monkeypatch, settled):
    monkeypatch.setattr(cache_key, "SETTLED_NS", settled)
    _, before = opened()
    times = (root / "3.png").stat()
    draw(root / "3.png", 99)
    os.utime(root / "3.png", ns=(times.st_atime_ns, times.st_mtime_ns))  # as rsync and unzip do
    source, after = opened()
    assert np.array_equal(after.array, expected(source))
    assert not np.array_equal(after.array[3], before.array[3])
    assert np.array_equal(after.array[2], before.array[2])


def test_size_policy_box_order_and_count_have_caches_of_their_own(opened, root, tmp_path):
    paths = {opened(size=size, policy=policy)[1].path for size in (SIZE, 9) for policy in ("pad", "crop")}
    source = Photos(root)
    whole = source.samples
    for samples in (
        whole[::-1],
        whole[:3],
        [Sample(s.path, 0, box=(0, 0, 9, 9)) for s in whole],
        [Sample(s.path, 0, box=(0, 0, 9, 8)) for s in whole],
    ):
        source.samples = samples
        paths.add(open_pixels(source, SIZE, "pad", cache_dir=tmp_path / "cache", progress=False).path)
    assert len(paths) == 8


def test_broken_photos_are_named_and_grey_and_mended_ones_read(opened, root):
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


def test_a_photo_that_vanishes_is_broken(root, tmp_path):
    source = Photos(root)
    (root / "4.jpg").unlink()
    pixels = open_pixels(source, SIZE, "pad", cache_dir=tmp_path, progress=False)
    assert "No such file" in pixels.broken[4]


def test_a_photo_that_changes_during_the_build_is_not_kept_under_its_old_name(root, tmp_path):
    class Changing(Photos):
        def read(self, index, min_side=None):
            if not self.reads:
                draw(root / "0.jpg", 77)
            return super().read(index, min_side)

    first = Changing(root)
    old = (root / "0.jpg").read_bytes()
    pixels = open_pixels(first, SIZE, "pad", cache_dir=tmp_path, progress=False)
    assert np.array_equal(pixels.array, expected(first))
    (root / "0.jpg").write_bytes(old)
    again = Photos(root)
    assert np.array_equal(open_pixels(again, SIZE, "pad", cache_dir=tmp_path, progress=False).array, expected(again))


@pytest.mark.parametrize("place", [3, 20, 200, cache_file.PAGE + 5, -200, -3, "short", "long", "empty"])
def test_a_flipped_byte_is_found_and_the_cache_built_again(opened, place, caplog):
    _, pixels = opened()
    data = bytearray(pixels.path.read_bytes())
    if place == "short":
        data = data[:-100]
    elif place == "long":
        data += b"x"
    elif place == "empty":
        data = bytearray()
    else:
        data[place] ^= 0x10
    pixels.path.write_bytes(data)
    source, pixels = opened()
    assert len(source.reads) == 6
    assert np.array_equal(pixels.array, expected(source))
    assert "damaged" in caplog.text
    assert opened()[0].reads == []


def test_every_byte_that_matters_is_covered(opened):
    _, pixels = opened()
    whole = pixels.path.read_bytes()
    for place in range(0, len(whole), 37):
        data = bytearray(whole)
        data[place] ^= 1
        pixels.path.write_bytes(data)
        assert cache_file.read(pixels.path) is None, place
    pixels.path.write_bytes(whole)
    assert cache_file.read(pixels.path) is not None


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"x": 3}', b"\xff\xfe"])
def test_a_damaged_digest_index_is_no_matter(opened, content, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_key, "SETTLED_NS", 0)
    opened()
    (index,) = (tmp_path / "cache/pixels").glob("digests-*.json")
    index.write_bytes(content)
    source, pixels = opened()
    assert np.array_equal(pixels.array, expected(source))


def test_over_budget_means_no_cache_and_one_line(opened, tmp_path, caplog):
    source, pixels = opened(budget_gb=1e-6)
    assert pixels is None
    assert source.reads == []
    assert len(caplog.records) == 1
    assert "data.cache_budget_gb=1e-06" in caplog.text


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_disk_that_cannot_be_written_costs_one_line(opened, monkeypatch, tmp_path, caplog, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    source, pixels = opened()
    assert pixels.path is None
    assert np.array_equal(pixels.array, expected(source))
    assert len(source.reads) == 6
    assert [os.strerror(code) in record.message for record in caplog.records] == [True]
    assert not list((tmp_path / "cache/pixels").glob("*.pixels*tmp"))
    monkeypatch.setattr(cache, "free_memory_gb", lambda: 0.0)
    assert opened()[1] is None
    assert "decoding on the fly" in caplog.text


def test_a_disk_that_is_really_full_is_noticed_before_decoding(opened, tmp_path):
    enough = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    with pytest.raises(cache_file.NoDisk, match=r"No space left|File too large"):
        cache_file.write(tmp_path / "x.pixels", (enough // 3 + 10**9, 1, 1, 3), {}, lambda _: pytest.fail("decoded"))
    assert not list(tmp_path.glob(".x*"))


def test_a_disk_that_fills_up_during_the_build_costs_one_line(opened, monkeypatch, tmp_path, caplog):
    class Full:
        data = property(lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))

    whole = np.ascontiguousarray
    monkeypatch.setattr(
        np, "ascontiguousarray", lambda pixels: Full() if pixels.shape == (SIZE, SIZE, 3) else whole(pixels)
    )
    source, pixels = opened()
    assert pixels.path is None
    assert np.array_equal(pixels.array, expected(source))
    assert ["No space left" in record.message for record in caplog.records] == [True]
    assert {path.suffix for path in (tmp_path / "cache/pixels").iterdir()} <= {".lock"}


def test_a_folder_that_cannot_be_made_costs_one_line(opened, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    source, pixels = opened(cache_dir=tmp_path / "file")
    assert np.array_equal(pixels.array, expected(source))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_an_error_or_ctrl_c_leaves_nothing_behind(root, tmp_path):
    class Stopped(Photos):
        def read(self, index, min_side=None):
            if index == 4:
                raise KeyboardInterrupt
            return super().read(index, min_side)

    with pytest.raises(KeyboardInterrupt):
        open_pixels(Stopped(root), SIZE, "pad", cache_dir=tmp_path / "cache", progress=False)
    assert {path.suffix for path in (tmp_path / "cache/pixels").iterdir()} <= {".lock"}


@pytest.mark.parametrize(
    ("options", "words"),
    [({"where": "ram"}, "data.cache=ram"), ({"policy": "fit"}, "data.resize=fit"), ({"size": 0}, "data.size=0")],
)
def test_wrong_settings_are_named(opened, options, words):
    with pytest.raises(DataError, match=words):
        opened(**options)


# Processes: forked from one that has the imports, since importing torch costs seconds.
PRELUDE = """
import json, os, signal, sys, time
from pathlib import Path
import numpy as np
from datamodules import cache, cache_file, images
from datamodules.sources.base import Sample, Source
root, folder, log = map(Path, sys.argv[1:4])

class Photos(Source):
    die_at = None
    def __init__(self):
        self.root, self.classes, self.count = root, ["a"], 0
        self.samples = [Sample(path.name, 0) for path in sorted(root.iterdir())]
    def read(self, index, min_side=None):
        self.count += 1
        if self.count == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        with log.open("a") as lines:
            lines.write(f"{index}\\n")
        time.sleep(0.01)
        return super().read(index, min_side)

def fork(job):
    child = os.fork()
    if child == 0:
        job()
        os._exit(0)
    return child

def open_it(source, workers=1):
    pixels = cache.open_pixels(source, 12, "pad", cache_dir=folder, progress=False, workers=workers)
    expected = np.stack([images.load(source.file(i), 12, "pad") for i in range(len(source.samples))])
    assert np.array_equal(pixels.array, expected)
    return pixels
"""
KILLED = """
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def job(point):
    source = Photos()
    if point < 6:
        source.die_at = point + 1
    else:
        if point < 8:
            setattr(cache_file, ["_allocate", "_checksums"][point - 6], die)
        real = os.replace
        def replace(path, target):
            if point == 9 or target.suffix == ".json":
                real(path, target)
            if target.suffix == ".pixels":
                die()
        Path.replace = replace
    open_it(source)
report = []
for point in range(10):
    status = os.waitpid(fork(lambda: job(point)), 0)[1]
    left = sorted(path.suffix for path in (folder / "pixels").iterdir() if path.suffix != ".json")
    before = len(log.read_text().split()) if log.exists() else 0
    assert os.waitpid(fork(lambda: open_it(Photos())), 0)[1] == 0
    report.append([os.WTERMSIG(status), left, len(log.read_text().split()) - before])
    after = sorted(path.suffix for path in (folder / "pixels").iterdir())
    assert ".tmp" not in after, after
    for path in (folder / "pixels").glob("*.pixels"):
        path.unlink()
print(json.dumps(report))
"""
TOGETHER = """
children = [fork(lambda: open_it(Photos())) for _ in range(4)]
print(json.dumps([os.waitpid(child, 0)[1] for child in children]))
"""


def script(body: str, root: Path, tmp_path: Path):
    environment = os.environ | {"PYTHONPATH": str(Path(datamodules.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", PRELUDE + body, str(root), str(tmp_path / "cache"), str(tmp_path / "log")]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_a_build_killed_at_ten_points_is_built_again(root, tmp_path):
    report, _ = script(KILLED, root, tmp_path)
    assert [killed for killed, _, _ in report] == [9] * 10
    assert [".pixels" in left for _, left, _ in report] == [False] * 9 + [True]  # the last died after it was done
    assert [reads for _, _, reads in report] == [6] * 9 + [0]


def test_four_processes_that_start_together_build_once_and_say_that_they_wait(root, tmp_path):
    statuses, said = script(TOGETHER, root, tmp_path)
    assert statuses == [0] * 4
    assert sorted((tmp_path / "log").read_text().split()) == sorted("012345")
    assert "waiting for another process" in said


def test_threads_of_one_process_build_once_too(root, tmp_path):
    source = Photos(root)
    results: list[np.ndarray] = []

    def job() -> None:
        results.append(open_pixels(source, SIZE, "pad", cache_dir=tmp_path / "cache", progress=False).array)

    threads = [threading.Thread(target=job) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(source.reads) == 6
    assert all(np.array_equal(result, expected(source)) for result in results)


def test_the_command_lists_and_cleans(opened, tmp_path, capsys):
    folder = tmp_path / "cache"
    cache_clean.main(["--dir", str(folder)])
    assert "No pixel caches" in capsys.readouterr().out
    paths = [opened(size=size)[1].path for size in (8, 9, 10)]
    for age, path in enumerate(paths):
        os.utime(path, (1e9 - age, 1e9 - age))
    os.utime(paths[0])
    cache_clean.main(["--dir", str(folder)])
    assert "0.0 MB removed" in capsys.readouterr().out
    cache_clean.main(
        ["--dir", str(folder), "--max-gb", str((paths[0].stat().st_size + paths[1].stat().st_size + 1) / 1e9)]
    )
    assert [path.exists() for path in paths] == [True, True, False]
    cache_clean.main(["--dir", str(folder), "--older-than", "30"])
    assert [path.exists() for path in paths] == [True, False, False]
    for name in (".pad-8px-0.pixels.123.tmp", ".digests-0.json.123.tmp"):
        (folder / "pixels" / name).write_bytes(b"left by a killed build")
    cache_clean.main(["--dir", str(folder), "--clean"])
    assert list((folder / "pixels").iterdir()) == []


def test_cleaning_leaves_a_running_job_its_pixels(opened, tmp_path):
    source, pixels = opened()
    cache_clean.main(["--dir", str(tmp_path / "cache"), "--clean"])
    assert np.array_equal(pixels.array, expected(source))


def test_a_damaged_cache_is_listed_too(opened, tmp_path, capsys):
    _, pixels = opened()
    pixels.path.write_bytes(b"nothing")
    assert [entry.photos for entry in cache_clean.entries(tmp_path / "cache/pixels")] == [None]


def test_the_place_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LITESORT_CACHE", raising=False)
    assert cache.default_cache_dir() == tmp_path / "litesort"
    monkeypatch.setenv("LITESORT_CACHE", str(tmp_path / "own"))
    assert cache.pixel_dir(None) == tmp_path / "own/pixels"
