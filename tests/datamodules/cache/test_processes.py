"""The pixel cache: several processes at once, killed processes, and the command that lists, cleans and verifies."""

import json
import os
import threading
from pathlib import Path

import entry_points
import numpy as np
import pytest
from cache_images import SIZE, CountedImages, expected

import datamodules
from datamodules import cache
from datamodules.cache import __main__ as command
from datamodules.cache import open_pixels
from datamodules.cache.config import CacheConfig

# Each job is forked from a process that has imported torch, since the import takes seconds.
PRELUDE = """
import json, os, signal, sys, time
from pathlib import Path
import numpy as np
from datamodules import cache, images
from datamodules.cache import store
from datamodules.cache.config import CacheConfig
from datamodules.sources.base import Sample, Source
root, folder, log = map(Path, sys.argv[1:4])

class Images(Source):
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

def open_cache(source, workers=1):
    pixels = cache.open_pixels(source, 12, "pad", CacheConfig(cache_dir=folder), progress=False, workers=workers)
    expected = np.stack([images.load(source.file(i), 12, "pad") for i in range(len(source.samples))])
    assert np.array_equal(pixels.array, expected)
    return pixels
"""
KILLED = """
import shutil
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
def job(point):
    source = Images()
    if point < 6:
        source.die_at = point + 1
    elif point == 6:
        store._allocate = die
    elif point == 7:
        np.save = die
    else:
        real = os.rename
        def rename(path, target):
            if point == 9:
                real(path, target)
            die()
        Path.rename = rename
    open_cache(source)
report = []
for point in range(10):
    status = os.waitpid(fork(lambda: job(point)), 0)[1]
    left = [path.name for path in (folder / "pixels").iterdir() if path.is_dir() and not path.name.startswith(".")]
    before = len(log.read_text().split()) if log.exists() else 0
    assert os.waitpid(fork(lambda: open_cache(Images())), 0)[1] == 0
    report.append([os.WTERMSIG(status), len(left), len(log.read_text().split()) - before])
    caches = [path for path in (folder / "pixels").iterdir() if path.is_dir()]
    assert len(caches) == 1, caches
    shutil.rmtree(caches[0])
print(json.dumps(report))
"""
TOGETHER = """
children = [fork(lambda: open_cache(Images())) for _ in range(4)]
print(json.dumps([os.waitpid(child, 0)[1] for child in children]))
"""


def script(body: str, root: Path, tmp_path: Path):
    environment = os.environ | {"PYTHONPATH": str(Path(datamodules.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    (tmp_path / "script.py").write_text(PRELUDE + body)
    arguments = [str(tmp_path / name) for name in ("script.py", "cache", "log")]
    arguments.insert(1, str(root))
    done = entry_points.run(*arguments, cwd=tmp_path, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_cache_is_complete_after_a_build_was_killed(root, tmp_path):
    report, _ = script(KILLED, root, tmp_path)
    assert [killed for killed, _, _ in report] == [9] * 10
    assert [left for _, left, _ in report] == [0] * 9 + [1]  # the last job was killed after the cache was complete
    assert [reads for _, _, reads in report] == [6] * 9 + [0]


def test_four_processes_build_one_cache_and_log_that_they_wait(root, tmp_path):
    statuses, stderr = script(TOGETHER, root, tmp_path)
    assert statuses == [0] * 4
    assert sorted((tmp_path / "log").read_text().split()) == sorted("012345")
    assert "is locked by another process, which builds it; waiting" in stderr


def test_threads_of_one_process_build_one_cache(root, tmp_path):
    source = CountedImages(root)
    results: list[np.ndarray] = []

    def job() -> None:
        results.append(
            open_pixels(source, SIZE, "pad", CacheConfig(cache_dir=tmp_path / "cache"), progress=False).array
        )

    threads = [threading.Thread(target=job) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(source.reads) == 6
    assert all(np.array_equal(result, expected(source)) for result in results)


def test_command_lists_and_cleans_caches(opened, tmp_path, capsys):
    folder = tmp_path / "cache"
    command.main(["--dir", str(folder)])
    assert "No pixel caches" in capsys.readouterr().out
    paths = [opened(size=size)[1].path for size in (8, 9, 10)]
    for age, path in enumerate(paths):
        os.utime(path, (1e9 - age, 1e9 - age))
    os.utime(paths[0])
    command.main(["--dir", str(folder)])
    assert "0.0 MB removed" in capsys.readouterr().out
    sizes = [entry.size for entry in command.entries(folder / "pixels")]
    command.main(["clean", "--dir", str(folder), "--max-gb", str((sizes[0] + sizes[1] + 1) / 1e9)])
    assert [path.exists() for path in paths] == [True, True, False]
    command.main(["clean", "--dir", str(folder), "--older-than", "30"])
    assert [path.exists() for path in paths] == [True, False, False]
    (folder / "pixels" / ".pad-8px-0.tmp").mkdir()  # left by killed builds
    (folder / "pixels" / ".digests-0-123.tmp").mkdir()
    command.main(["clean", "--dir", str(folder)])
    assert list((folder / "pixels").iterdir()) == []


def test_list_shows_square_brackets_of_a_path(tmp_path, capsys):
    command.main(["--dir", str(tmp_path / "[old]")])
    assert "[old]/pixels" in capsys.readouterr().out.replace("\n", "")


def test_limits_require_the_command_clean(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(["--dir", str(tmp_path), "--max-gb", "1"])
    assert caught.value.code == 2
    assert "require the command clean" in capsys.readouterr().err


def test_verify_removes_damaged_caches(opened, tmp_path, capsys):
    intact, damaged = opened(size=8)[1].path, opened(size=9)[1].path
    verify = ["verify", "--dir", str(tmp_path / "cache")]
    with pytest.raises(SystemExit) as caught:
        command.main(verify)
    assert caught.value.code == 0
    data = bytearray((damaged / "pixels.npy").read_bytes())
    data[-1] ^= 1
    (damaged / "pixels.npy").write_bytes(data)
    with pytest.raises(SystemExit) as caught:
        command.main(verify)
    assert caught.value.code == 1
    assert "1 of 2 caches damaged" in capsys.readouterr().out
    assert (intact.exists(), damaged.exists()) == (True, False)
    source, pixels = opened(size=9)
    assert np.array_equal(pixels.array, expected(source, size=9))


def test_clean_keeps_the_pixels_of_a_running_job(opened, tmp_path):
    source, pixels = opened()
    command.main(["clean", "--dir", str(tmp_path / "cache")])
    assert np.array_equal(pixels.array, expected(source))


def test_damaged_cache_is_listed(opened, tmp_path):
    _, pixels = opened()
    (pixels.path / "pixels.npy").write_bytes(b"nothing")
    assert [entry.images for entry in command.entries(tmp_path / "cache/pixels")] == [None]


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LITESORT_CACHE", raising=False)
    assert cache.default_cache_dir() == tmp_path / "litesort"
    monkeypatch.setenv("LITESORT_CACHE", str(tmp_path / "own"))
    assert cache.pixel_dir(None) == tmp_path / "own/pixels"
