"""Several processes, killed processes and the command that cleans up."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
from cache_photos import SIZE, Photos, expected

import datamodules
from datamodules import cache, cache_clean
from datamodules.cache import open_pixels

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
