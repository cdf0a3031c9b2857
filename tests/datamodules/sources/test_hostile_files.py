"""Unusual folders and file names: images are read, or a one-line error gives the reason."""

import os
import resource
import shutil
from pathlib import Path

import fuzz
import numpy as np
import pytest
from PIL import Image
from toy_images import data_module

from datamodules import images
from datamodules.datamodule import ImageDataModule
from datamodules.sources.folder import FolderSource
from litesort.errors import DataError

NAMES = [
    "new\nline.jpg",
    "\u202egpj.exe.jpg",
    b"bad\xff\xfe.jpg".decode("utf-8", "surrogateescape"),
    "a,b;'\".jpg",
    " .jpg",
]


def draw(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(file, "JPEG")


@pytest.fixture
def root(tmp_path) -> Path:
    for number in range(12):
        draw(tmp_path / "photos" / ("can" if number % 2 else "bag") / f"{number}.jpg", number)
    return tmp_path / "photos"


def ready(root: Path, tmp_path: Path, **options) -> ImageDataModule:
    data = data_module(root, tmp_path / "cache", **{"size": 8} | options)
    data.setup("fit")
    return data


def test_unusual_names_are_read_and_listed(root, tmp_path):
    for number, name in enumerate(NAMES):
        draw(root / "can" / name, 50 + number)
    (root / "can" / NAMES[0]).write_bytes(b"broken")
    data = ready(root, tmp_path, quarantine_dir=tmp_path / "run")
    assert len(data.samples) == 12 + len(NAMES)
    assert [data.samples[row].path for row in data.broken] == [f"can/{NAMES[0]}"]
    assert "can/new" in (tmp_path / "run" / "quarantine.csv").read_text(encoding="utf-8")
    assert sum(len(rows) for rows in data.splits.values()) == 11 + len(NAMES)


def test_reports_contain_unusual_names(root, tmp_path):
    from datamodules.quality.report import data_report
    from reports.dataset import print_overview, summarize, write_lists
    from reports.html.dataset import write_page

    for number, name in enumerate(NAMES):
        draw(root / "can" / name, number)  # the same content as an existing file
    found = data_report(ready(root, tmp_path), progress=False)
    results = {"data": "folder", **summarize(found), **found}
    files = write_lists(tmp_path / "out", found)
    write_page(tmp_path / "out" / "page.html", results, lambda row: np.zeros((4, 4, 3), np.uint8))
    print_overview(results, files)
    assert results["equal"] == len(NAMES)


def test_folder_follows_links_without_cycles(root, tmp_path):
    draw(tmp_path / "elsewhere" / "x.jpg")
    (root / "can" / "out").symlink_to(tmp_path / "elsewhere")
    (root / "can" / "round").symlink_to(root / "can")
    (root / "can" / "nowhere.jpg").symlink_to(tmp_path / "gone.jpg")
    data = ready(root, tmp_path)
    paths = {sample.path for sample in data.samples}
    assert {"can/out/x.jpg", "can/nowhere.jpg"} <= paths
    assert len(paths) == 14
    assert [data.samples[row].path for row in data.broken] == ["can/nowhere.jpg"]


def test_devices_and_pipes_are_broken_and_never_opened(root, tmp_path):
    (root / "can" / "zero.jpg").symlink_to("/dev/zero")
    (root / "can" / "tty.jpg").symlink_to("/dev/null")
    os.mkfifo(root / "can" / "pipe.jpg")
    data = ready(root, tmp_path)
    assert {data.samples[row].path for row in data.broken} == {"can/zero.jpg", "can/tty.jpg", "can/pipe.jpg"}
    assert set(data.broken.values()) == {"is not a regular file"}


def test_read_only_root_is_read(root, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    for path in (root, *root.iterdir()):
        path.chmod(0o555)
    try:
        data = ready(root, tmp_path, quarantine_dir=tmp_path / "run")
    finally:
        for path in (root, *root.iterdir()):
            path.chmod(0o755)
    assert len(data.rows) == 12
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_root_deleted_before_reading_is_a_one_line_error(root, tmp_path):
    source = FolderSource(root)
    shutil.rmtree(root)
    with pytest.raises(DataError, match=r"none of the 12 images can be read; the first is .*No such file"):
        data_module(None, tmp_path / "cache", source=source, size=8).setup()


def test_images_deleted_during_reading_are_broken(root, tmp_path):
    class DeletedOnRead(FolderSource):
        def read(self, index, min_side=None):
            if index == 6:
                shutil.rmtree(self.root)
            return super().read(index, min_side)

    data = data_module(None, tmp_path / "cache", source=DeletedOnRead(root), size=8, cache="memory", num_workers=1)
    data.prepare_data()
    data.setup()
    assert set(data.broken) == set(range(6, 12))
    assert all("No such file" in reason for reason in data.broken.values())


def test_cached_images_are_read_after_the_root_is_deleted(root, tmp_path):
    pixels = [batch.images.numpy() for batch in ready(root, tmp_path).loader("all")]
    data = ready(root, tmp_path)
    shutil.rmtree(root)
    assert all(np.array_equal(a, b.images.numpy()) for a, b in zip(pixels, data.loader("all"), strict=True))


def test_many_files_are_listed_with_one_scan_of_the_folder(root, monkeypatch):
    class Entry:
        def __init__(self, name: str) -> None:
            self.name = name

        def is_dir(self) -> bool:
            return False

    scan, scans = os.scandir, []

    class Listing(list):
        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *_: None  # noqa: E731

    def scandir(folder):
        scans.append(Path(folder).name)
        return Listing(Entry(f"{n}.jpg") for n in reversed(range(100_000))) if scans[-1] == "can" else scan(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    source = FolderSource(root)
    assert len(source.samples) == 100_006
    assert [s.path for s in source.samples if s.label == 1][:3] == ["can/0.jpg", "can/1.jpg", "can/2.jpg"]
    assert scans.count("can") == 1


def test_broken_reasons_are_one_line(root):
    for name in NAMES:
        with pytest.raises(images.BrokenImage) as caught:
            images.read_image(root / "can" / f"gone{name}")
        assert "\n" not in caught.value.reason


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", ["decoder", "COCO reader", "file list", "config"])
def test_mutated_inputs_are_read_or_refused(reader, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 60)  # a busy machine may be slow
    assert fuzz.fuzz(reader, 250, 3, tmp_path) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", ["decoder", "COCO reader", "file list", "config"])
def test_25000_mutated_inputs_are_read_or_refused_within_1_gb(reader, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert fuzz.fuzz(reader, 25_000, 0, tmp_path) == []
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 <= 1000
