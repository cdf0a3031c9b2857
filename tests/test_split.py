"""A run's split is kept: evaluations, exports, resumed runs and runs that start from it use the same test images."""

import csv
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from configs import QUICK_LATENCY, QUIET_CPU, TINY_NET, composed
from PIL import Image

from datamodules.sources.folder import FolderSource
from evaluate import main as evaluate_main
from export import export
from lightning_modules.checkpoint import read_checkpoint
from litesort.cli.build import resumed_config
from litesort.errors import DataError, ModelError
from train import train

QUICK = (*QUICK_LATENCY, "latency.end_to_end=false")
TINY = (
    *QUICK, *TINY_NET, *QUIET_CPU, "data.size=32", "data.batch_size=8", "epochs=1", "mistakes=0",
    "trainer.log_every_n_steps=1",
)  # fmt: skip


def start(folder: Path, *overrides: str) -> dict:
    """Train in `folder` as train.py does."""
    cfg = composed("train", *TINY, f"run_dir={folder}", *overrides)
    return train(resumed_config(cfg, list(overrides)), list(overrides))


def predicted_files(folder: Path) -> set[str]:
    """Image files listed in the predictions.csv of a folder."""
    with (folder / "predictions.csv").open(newline="") as file:
        return {row["file"] for row in csv.DictReader(file)}


def evaluated(folder: Path, *overrides: str) -> dict:
    """Evaluate into `folder` and return its metrics.json."""
    evaluate_main.__wrapped__(composed("evaluate", *QUICK, f"run_dir={folder}", *overrides))
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def images(tmp_path_factory, image_folder):
    """A folder of images that the tests of this module may move."""
    return shutil.copytree(image_folder, tmp_path_factory.mktemp("images") / "photos")


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    results = start(folder, "data=folder", f"data.root={images}", "data.val_fraction=0.3", "data.test_fraction=0.3")
    return folder / "best.ckpt", results


@pytest.fixture
def copy(images, tmp_path):
    """A copy of the images in another folder."""
    return shutil.copytree(images, tmp_path / "moved")


def test_macro_f1_is_the_same_after_moving_adding_and_removing_images(finished, images, copy, tmp_path):
    ckpt, trained = finished
    f1 = trained["test/f1_macro"]
    assert evaluated(tmp_path / "a", f"ckpt={ckpt}")["test/f1_macro"] == f1
    for number, name in enumerate(("a", "b", "c", "d", "e")):
        Image.fromarray(np.full((40, 40, 3), 40 * number, np.uint8)).save(copy / f"bag/0{name}.png")
    test = predicted_files(ckpt.parent)
    removed = [file for file in sorted(copy.rglob("*.jpg")) if str(file.relative_to(copy)) not in test][:5]
    for file in removed:
        file.unlink()
    found = evaluated(tmp_path / "b", f"ckpt={ckpt}", f"data.root={copy}")
    assert found["split"] == "test"
    assert found["test/f1_macro"] == f1
    again = evaluated(tmp_path / "c", f"ckpt={ckpt}", "data=folder", f"data.root={copy}", "seed=3")
    assert (again["test/f1_macro"], again["split"]) == (f1, "test")


def test_excluded_images_do_not_change_the_split_of_others(finished, copy, tmp_path):
    ckpt, _ = finished
    test = predicted_files(ckpt.parent)
    names = sorted(str(file.relative_to(copy)) for file in copy.rglob("*.jpg"))
    training = [name for name in names if name not in test][:3]
    (tmp_path / "exclude.csv").write_text("path\n" + "\n".join([*training, min(test)]))
    found = evaluated(tmp_path / "a", f"ckpt={ckpt}", f"data.exclude={tmp_path / 'exclude.csv'}")
    assert predicted_files(tmp_path / "a") == test - {min(test)}
    assert found["images"] == len(test) - 1


def test_evaluation_of_other_images_leaves_out_training_images(finished, images, tmp_path, caplog):
    ckpt, _ = finished
    split = read_checkpoint(ckpt)["litesort"]["split"]
    other = tmp_path / "other"
    for number, file in enumerate(sorted(images.rglob("*.jpg"))):
        folder = other / file.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(Image.open(file)).copy()
        Image.fromarray(255 - pixels).save(folder / f"{number}.png")
    samples = FolderSource(images).samples
    trained_on = [sample.path for sample, bit in zip(samples, split["bits"], strict=True) if bit == "1"][:4]
    for path in trained_on:
        shutil.copy(images / path, other / path)
    with caplog.at_level(logging.WARNING):
        found = evaluated(tmp_path / "a", f"ckpt={ckpt}", f"data.root={other}")
    assert (found["split"], found["images"]) == ("unseen", 60)
    assert "4 of these 64 images are training or validation images of the checkpoint" in caplog.text


def test_training_images_are_never_reported_as_test(finished, tmp_path):
    found = evaluated(tmp_path / "a", f"ckpt={finished[0]}", "split=train")
    assert found["split"] == "train"
    assert "train/f1_macro" in found
    assert not [key for key in found if key.startswith("test/")]


def test_fold_is_refused_in_an_evaluation(finished, images, tmp_path):
    with pytest.raises(DataError, match=r"data\.fold"):
        evaluated(tmp_path, f"ckpt={finished[0]}", "data=folder", f"data.root={images}", "data.fold=1", "data.folds=5")


def test_export_uses_the_same_test_images(finished, copy, tmp_path):
    pytest.importorskip("onnxruntime")
    ckpt, trained = finished
    choice = [f"ckpt={ckpt}", f"out={tmp_path}", "format=[onnx]", "precision=[fp32]", f"data.root={copy}"]
    report = export(composed("export", *QUICK, *choice))
    assert report["split"] == "test"
    assert report["metrics"]["f1_macro"] == trained["test/f1_macro"]
    found = evaluated(tmp_path / "a", f"ckpt={tmp_path / 'model-fp32.onnx'}", f"data.root={copy}")
    assert found["images"] == trained["images"]


def test_resumed_run_keeps_its_split_if_images_are_added(images, copy, tmp_path):
    folder = tmp_path / "run"
    start(folder, "data=folder", f"data.root={copy}")
    before = read_checkpoint(folder / "last.ckpt")["litesort"]["split"]
    files = predicted_files(folder)
    for number in range(5):
        Image.fromarray(np.full((40, 40, 3), 40 * number, np.uint8)).save(copy / f"bag/0{number}.png")
    start(folder, f"ckpt={folder / 'last.ckpt'}", "epochs=2")
    assert read_checkpoint(folder / "last.ckpt")["litesort"]["split"] == before
    assert predicted_files(folder) == files
    other = shutil.copytree(images, tmp_path / "other")
    for file in other.rglob("*.jpg"):
        file.write_bytes(file.read_bytes() + b"other")
    with pytest.raises(DataError, match="was trained on other images than these"):
        start(folder, f"ckpt={folder / 'last.ckpt'}", "epochs=3", f"data.root={other}")


@pytest.mark.parametrize(
    "start_from",
    [["ckpt_init={}"], ["model.weights={}"], ["objective=distill_logit", "teacher={}"]],
    ids=["ckpt_init", "weights", "teacher"],
)
def test_run_from_a_checkpoint_uses_its_split_and_refuses_an_overlap(finished, images, tmp_path, start_from, caplog):
    ckpt, trained = finished
    own = [item.format(ckpt) for item in start_from]
    where = ["data=folder", f"data.root={images}", "seed=1"]
    with caplog.at_level(logging.INFO):
        assert start(tmp_path / "a", *own, *where)["images"] == trained["images"]
    assert f"={ckpt} is used; a split setting" in caplog.text
    assert predicted_files(tmp_path / "a") == predicted_files(ckpt.parent)
    message = r"was trained on \d+ of \d+ val images and \d+ of \d+ test images: leave out data\.seed"
    new_split = [*own, *where, "data.seed=1"]
    if "teacher" not in start_from[-1]:
        with pytest.raises(ModelError, match=message):
            start(tmp_path / "b", *new_split)
        return
    with caplog.at_level(logging.WARNING):
        start(tmp_path / "b", *new_split)
    assert "strict=true makes this an error" in caplog.text
    with pytest.raises(ModelError, match=message):
        start(tmp_path / "c", *new_split, "strict=true")


def test_split_settings_come_from_the_checkpoint(finished, images, tmp_path):
    ckpt, _ = finished
    start(tmp_path, f"ckpt_init={ckpt}", "data=folder", f"data.root={images}")
    assert read_checkpoint(tmp_path / "best.ckpt")["litesort"]["config"]["data"]["val_fraction"] == 0.3
