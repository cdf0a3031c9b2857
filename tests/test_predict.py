"""Predictions for unlabelled images: one row per file, also for unreadable ones, in constant memory."""

import csv
import json
import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from configs import composed_quoted
from entry_points import run_all
from PIL import Image

from datamodules.inference_loader import calibration_images, find_images, read_batches
from litesort.errors import DataError, DeploymentError, ModelError
from predict import predict
from reports.predictions import PredictionWriter


def configured(*overrides: str):
    return composed_quoted("predict", *overrides)


@pytest.fixture
def odd_files(image_folder, tmp_path):
    """A folder with images under unusual names, broken images, and files that are ignored."""
    folder = tmp_path / "a folder, (1) = 'odd'"
    (folder / "deep" / "er").mkdir(parents=True)
    for number, place in enumerate(("b.jpg", "deep/c.JPG", "deep/er/=d.jpg")):
        (folder / place).write_bytes((image_folder / "can" / f"can{number}.jpg").read_bytes())
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "half.jpg").write_bytes((image_folder / "can" / "can3.jpg").read_bytes()[:300])
    (folder / "text.png").write_text("not an image")
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "notes.txt").write_text("ignored")
    (folder / ".hidden.jpg").write_bytes(b"x")
    return folder


def bomb() -> bytes:
    """Header of a PNG of 50,000 x 50,000 px."""
    import struct
    import zlib

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))


def test_every_file_is_a_row(checkpoint, odd_files, tmp_path, capsys):
    table, lines = tmp_path / "out" / "labels.csv", tmp_path / "out" / "labels.jsonl"
    summary = predict(
        configured(f"ckpt={checkpoint}", f"source={odd_files}", f"csv={table}", f"json={lines}", "batch_size=2")
    )
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {Path(row["file"]).name: row["status"] for row in rows} == {
        "b.jpg": "ok", "c.JPG": "ok", "=d.jpg": "ok", "empty.jpg": "broken", "half.jpg": "broken",
        "text.png": "broken", "bomb.png": "broken",
    }  # fmt: skip
    for row in rows:
        if row["status"] == "broken":
            assert row["reason"]
            assert row["prediction"] is None
        else:
            probabilities = {name: row[f"p_{name}"] for name in ("bag", "can", "cup")}
            assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
            assert row["prediction"] == max(probabilities, key=probabilities.get)
            assert row["confidence"] == max(probabilities.values())
    with table.open() as file:
        assert [row["file"] for row in csv.DictReader(file)] == [row["file"] for row in rows]
    assert (summary.statuses["ok"], summary.statuses["broken"]) == (3, 4)
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("7 images: ") == text.count(", 4 broken") == 1
    assert sorted(path.name for path in table.parent.iterdir()) == ["labels.csv", "labels.jsonl"]


def test_predictions_below_the_threshold_are_rejected(checkpoint, image_folder, tmp_path, capsys):
    path = tmp_path / "labels.json"
    summary = predict(
        configured(
            f"ckpt={checkpoint}",
            f"source={image_folder / 'cup'}/cup1*.jpg",
            "min_confidence=1",
            f"json={path}",
            "max_rows=2",
        )
    )
    rows = json.loads(path.read_text())
    assert len(rows) == 11
    assert {row["status"] for row in rows} == {"rejected"}
    assert rows[0]["reason"] == "confidence below 1"
    assert rows[0]["prediction"] == "cup"
    assert len(summary.first) == 2
    out = capsys.readouterr().out
    assert "... and 9 more" in out
    assert "11 images: no predictions, 11 rejected" in out  # rejected images are not counted as cups


def test_exported_file_gives_the_same_predictions(checkpoint, image_folder, tmp_path):
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="the export extra is not installed")
    from deployment.formats import FORMATS
    from lightning_modules.checkpoint import load_net

    path = FORMATS["onnx"].write(load_net(checkpoint)[0], tmp_path / "model.onnx", load_net(checkpoint)[1])
    source = f"source={image_folder / 'bag' / 'bag0.jpg'}"
    one, other = (predict(configured(f"ckpt={file}", source, "threads=1")).first[0] for file in (checkpoint, path))
    assert one["prediction"] == other["prediction"]
    assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-4)


def test_command_accepts_unusual_paths_and_names_missing_ones(checkpoint, odd_files, tmp_path):
    before = set(tmp_path.iterdir())
    sources = (f"source={odd_files / 'b.jpg'}", "source=nowhere")
    done, wrong = run_all([["predict.py", f"ckpt={checkpoint}", source] for source in sources], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 image: " in done.stdout
    assert wrong.returncode == 2
    assert wrong.stderr.strip() == "error: source=nowhere does not exist: give an image, a folder or a pattern"
    assert set(tmp_path.iterdir()) == before  # no other file is written


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("source=null", "source is not set"),
        ("min_confidence=2", "min_confidence=2"),
        ("min_confidence=auto", "min_confidence=auto needs a threshold, and ckpt=.* stores none: give a number"),
        ("workers=0", "workers=0"),
        ("workers=auto", "workers=auto is invalid: expected an integer of at least 1"),
        ("batch_size=null", "batch_size=null is invalid"),
        ("threads=auto", "threads=auto is invalid"),
        ("+runtime.a=1", "runtime options a do nothing with a checkpoint"),
        ("ckpt=null", "ckpt is not given"),
        ("ckpt=model.txt", "model.txt"),
        ("csv=/proc/none/labels.csv", "cannot be written"),
    ],
)
def test_invalid_settings_are_one_line(checkpoint, image_folder, override, message):
    with pytest.raises((DataError, DeploymentError, ModelError), match=message) as caught:
        predict(configured(f"ckpt={checkpoint}", f"source={image_folder}", override))
    assert "\n" not in str(caught.value)


def test_existing_output_files_are_not_replaced(checkpoint, image_folder, tmp_path, monkeypatch):
    one = f"source={image_folder / 'cup' / 'cup1.jpg'}"
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "deep")
    (tmp_path / "old.csv").write_text("old")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("deployment.predictors.load_artifact", None)  # refused before any image is read
        for name in ("a.csv", str(tmp_path / "a.csv"), "deep/../a.csv", "./a.csv", "link/../a.csv"):
            with pytest.raises(DataError, match=r"csv=.* json=a.csv are the same file: give two names"):
                predict(configured(f"ckpt={checkpoint}", one, f"csv={name}", "json=a.csv", "overwrite=true"))
        for key, name in (("csv", "old.csv"), ("json", "old.csv"), ("csv", "dangling")):
            line = f"{key}={name} exists: give another name, or overwrite=true to replace it"
            with pytest.raises(DataError) as refused:
                predict(configured(f"ckpt={checkpoint}", one, f"{key}={name}"))
            assert str(refused.value) == line
        with pytest.raises(ModelError, match="overwrite=maybe is invalid: expected true or false"):
            predict(configured(f"ckpt={checkpoint}", one, "overwrite=maybe"))
    predict(configured(f"ckpt={checkpoint}", one, "csv=old.csv", "overwrite=true"))
    assert "cup1.jpg" in Path("old.csv").read_text()


def test_output_file_created_during_the_run_is_not_replaced(checkpoint, image_folder, tmp_path, monkeypatch):
    add = PredictionWriter.add
    monkeypatch.setattr(
        PredictionWriter, "add", lambda self, row: Path(tmp_path / "a.csv").write_text("other") and add(self, row)
    )
    with pytest.raises(DataError, match=r"csv=.*a.csv exists: give another name"):
        predict(
            configured(f"ckpt={checkpoint}", f"source={image_folder / 'cup' / 'cup1.jpg'}", f"csv={tmp_path / 'a.csv'}")
        )
    assert (tmp_path / "a.csv").read_text() == "other"
    assert len(list(tmp_path.iterdir())) == 1


def test_interrupted_writer_leaves_no_files(tmp_path):
    def interrupted():
        with PredictionWriter(["a", "b"], tmp_path / "a.csv", tmp_path / "a.json", 1) as writer:
            writer.add({"file": "x", "prediction": "a", "confidence": 0.9, "status": "ok", "reason": None})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_images_are_read_a_few_batches_ahead(image_folder, monkeypatch):
    from datamodules import inference_loader

    read = []
    pixels = np.zeros((4, 4, 3), np.uint8)
    monkeypatch.setattr(inference_loader.images, "load", lambda file, *_: read.append(file) or pixels)
    endless = (image_folder / f"{number}.jpg" for number in range(10**9))
    for batch in islice(read_batches(endless, 4, "pad", batch_size=2, ahead=2), 5):
        assert batch.pixels.shape == (2, 4, 4, 3)
    assert len(read) <= 2 * (5 + 3)


def test_find_images_sorts_naturally_and_refuses_empty_sources(tmp_path):
    for name in ("b10.jpg", "b2.jpg", "a/c.png", "no.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert names == ["a/c.png", "b2.jpg", "b10.jpg"]
    assert [path.name for path in find_images(f"{tmp_path}/**/*.png")] == ["c.png"]
    assert [path.name for path in find_images(tmp_path / "no.txt")] == ["no.txt"]
    (tmp_path / "none").mkdir()
    for empty in (tmp_path / "none", f"{tmp_path}/*.webp"):
        with pytest.raises(DataError, match="contains no image"):
            next(find_images(empty))


def test_unreadable_folder_is_a_broken_image(tmp_path, monkeypatch):
    for name in ("a/1.png", "lost/2.png", "z.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "lost":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (read,) = read_batches(find_images(tmp_path), 8, "pad")
    assert [(file.name, bool(reason)) for file, reason in zip(read.files, read.reasons, strict=True)] == [
        ("1.png", False), ("lost", True), ("z.png", False)
    ]  # fmt: skip
    assert len(read.pixels) == 2


def test_calibration_images_come_from_all_batches(tmp_path):
    batches = [(np.full((4, 2, 2, 3), number, np.uint8),) for number in range(10)]
    some = calibration_images(batches, 10, batch_size=4)
    assert [len(batch) for batch in some] == [4, 4, 2]
    assert [int(image[0, 0, 0]) for batch in some for image in batch] == list(range(10))
    assert sum(len(batch) for batch in calibration_images(batches, 1000)) == 40
    assert sum(len(batch) for batch in calibration_images(batches, 3)) == 3


@pytest.mark.parametrize("count", [20, 100, 128, 130, 500])
def test_calibration_images_include_the_last_class(count):
    """Images come in the order of a folder, class by class, and the last class is the smallest."""
    labels = np.repeat(np.arange(6, dtype=np.uint8), [300, 300, 300, 250, 110, 80])
    images = np.broadcast_to(labels[:, None, None, None], (len(labels), 1, 1, 3))
    some = np.concatenate(calibration_images([(images[i : i + 64],) for i in range(0, len(images), 64)], count))[
        :, 0, 0, 0
    ]
    shares = np.bincount(some, minlength=6) / len(some)
    assert len(some) == count
    np.testing.assert_allclose(shares, np.bincount(labels) / len(labels), atol=1.5 / 20)
    assert shares.min() > 0
