"""Images in tar shards and Arrow tables."""

import io
import json
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from datamodules import images
from datamodules.sources.hf import HfSource
from datamodules.sources.webdataset import WebDatasetSource
from litesort.errors import DataError


def image_bytes(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write_shard(path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    pytest.importorskip("webdataset")
    folder = tmp_path / "shards"
    folder.mkdir()
    for number, split in enumerate(("train", "val")):
        members = {}
        for row in range(3):
            members[f"../up/{row}.png"] = image_bytes(10 * number + row)
            members[f"../up/{row}.cls"] = b"10" if row else b"2"
            members[f"../up/{row}.json"] = json.dumps({"kind": "can" if row else "bag"}).encode()
        write_shard(folder / f"{split}-0.tar", members)
    return folder


def test_shards_give_images_labels_and_split(shards, tmp_path):
    source = WebDatasetSource(shards, cache_dir=tmp_path / "cache")
    assert source.classes == ["2", "10"]
    assert [s.split for s in source.samples] == ["train"] * 3 + ["val"] * 3
    for row in range(6):
        assert np.array_equal(source.read(row), images.read_image(image_bytes(row if row < 3 else row + 7)))
        assert (tmp_path / "cache") in source.file(row).parents
    assert not (tmp_path / "up").exists()
    again = WebDatasetSource(shards, cache_dir=tmp_path / "cache")
    assert again.samples == source.samples
    assert len([path for path in (tmp_path / "cache/webdataset").iterdir() if path.is_dir()]) == 1


def test_labels_of_shards_may_be_fields_or_numbers_of_names(shards, tmp_path):
    assert WebDatasetSource(shards, "json:kind", cache_dir=tmp_path / "c").classes == ["bag", "can"]
    names = [f"c{number}" for number in range(11)]
    source = WebDatasetSource(shards, names=names, cache_dir=tmp_path / "c")
    assert source.classes == ["c2", "c10"]
    assert [s.label for s in source.samples[:3]] == [0, 1, 1]
    (shards / "zeros").mkdir()
    members = {"a.png": image_bytes(0), "a.cls": b"1", "b.png": image_bytes(1), "b.cls": b"01"}
    write_shard(shards / "zeros/0.tar", members)
    source = WebDatasetSource(shards / "zeros", names=names, cache_dir=tmp_path / "c")
    assert (source.classes, [s.label for s in source.samples]) == (["c1"], [0, 0])
    for options, message in (
        ({"names": ["a"]}, "data.source.names has 1 names, but a label is"),
        ({"label": "txt"}, "has no .txt file: data.source.label=txt"),
        ({"label": "json:colour"}, "does not contain the label of data.source.label=json:colour"),
    ):
        with pytest.raises(DataError, match=message):
            WebDatasetSource(shards, cache_dir=tmp_path / "c", **options)


def test_webdataset_invalid_shards_raise_data_error(shards, tmp_path):
    (shards / "val-0.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match="cannot be read as a tar shard"):
        WebDatasetSource(shards, cache_dir=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache/webdataset").iterdir() if path.is_dir()]
    write_shard(shards / "val-0.tar", {"note.txt": b"no image"})
    with pytest.raises(DataError, match=r"data\.root: no image with a label in "):
        WebDatasetSource(shards / "val-0.tar", cache_dir=tmp_path / "cache")
    with pytest.raises(DataError, match=r"contains no \*\.tar"):
        WebDatasetSource(tmp_path, cache_dir=tmp_path / "cache")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_saved_folder_gives_images_labels_and_split(tmp_path):
    datasets = pytest.importorskip("datasets")
    kinds = datasets.Features({"picture": datasets.Image(), "label": datasets.ClassLabel(names=["can", "bag"])})

    def part(first: int):
        rows = {"picture": [{"bytes": image_bytes(first + i), "path": None} for i in range(3)], "label": [1, 0, 1]}
        return datasets.Dataset.from_dict(rows, features=kinds)

    datasets.DatasetDict({"train": part(0), "validation": part(3)}).save_to_disk(str(tmp_path / "saved"))
    source = HfSource(tmp_path / "saved", cache_dir=tmp_path / "cache")
    assert source.classes == ["bag", "can"]
    assert [s.split for s in source.samples] == ["train"] * 3 + ["val"] * 3
    assert [source.classes[s.label] for s in source.samples[:3]] == ["bag", "can", "bag"]
    assert all(np.array_equal(source.read(row), images.read_image(image_bytes(row))) for row in range(6))
    for options, message in (
        ({"label": "kind"}, "data.source.label=kind"),
        ({"image": "label"}, "data.source.image=label"),
    ):
        with pytest.raises(DataError, match=message):
            HfSource(tmp_path / "saved", cache_dir=tmp_path / "cache", **options)
    with pytest.raises(DataError, match="is not a folder written by datasets' save_to_disk"):
        HfSource(tmp_path / "cache", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(("source", "package"), [(WebDatasetSource, "webdataset"), (HfSource, "datasets")])
def test_missing_package_raises_data_error(source, package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"needs the package {package}: pip install -e '\.\["):
        source(tmp_path)
