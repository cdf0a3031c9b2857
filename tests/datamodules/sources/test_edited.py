"""Lists that exclude or relabel images, with every kind of source."""

import json
import logging

import numpy as np
import pytest
from toy_images import data_module

from datamodules.sources.coco import CocoSource
from datamodules.sources.edited import EditConfig, apply_edits
from datamodules.sources.folder import FolderSource
from datamodules.sources.synthetic.source import SyntheticSource
from litesort.errors import DataError


@pytest.fixture
def lists(tmp_path):
    def write(name, *lines):
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
        return tmp_path / name

    return write


def test_excluded_images_are_gone_and_relabelled_ones_have_their_new_label(image_folder, lists, tmp_path):
    exclude = lists("out.csv", "path", "bag/bag0.jpg", "can/can7.jpg")
    relabel = lists("new.csv", "label;path;note", "cup;bag/bag1.jpg;seen", "cup;bag/bag0.jpg;")
    whole = FolderSource(image_folder)
    data = data_module(None, tmp_path, source=whole, size=8, batch_size=4, exclude=exclude, relabel=relabel)
    data.setup("fit")
    assert len(data.samples) == 58
    assert np.bincount(data.labels).tolist() == [18, 19, 21]
    assert not {"bag/bag0.jpg", "can/can7.jpg"} & {sample.path for sample in data.samples}
    for row in (0, 20, 57):
        number = whole.samples.index(next(s for s in whole.samples if s.path == data.samples[row].path))
        assert data.source.file(row) == whole.file(number)
        assert data.source.digest(row) == whole.digest(number)
        np.testing.assert_array_equal(data.source.read(row), whole.read(number))
    everything = data_module(None, tmp_path, source=whole, size=8)
    everything.setup()
    place = [whole.samples.index(s) for s in whole.samples if s.path not in ("bag/bag0.jpg", "can/can7.jpg")]
    np.testing.assert_array_equal(data._pixels.array, everything._pixels.array[place])


def test_edited_source_prepares_all_images(lists, tmp_path):
    first = SyntheticSource(18, cache_dir=tmp_path)
    source = apply_edits(first, EditConfig(exclude=lists("out.csv", "path", first.samples[3].path)))
    source.prepare()
    assert all(first.file(row).is_file() for row in range(18))
    assert source.file(3) == first.file(4)


def test_boxes_are_excluded_and_relabelled_by_path_and_id(image_folder, lists, tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "can/can0.jpg", "width": 60, "height": 60}],
        "annotations": [{"id": n, "image_id": 1, "category_id": n % 2, "bbox": [n, n, 20 + n, 20]} for n in range(4)],
        "categories": [{"id": 0, "name": "can"}, {"id": 1, "name": "bag"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    source = apply_edits(
        CocoSource(tmp_path / "boxes.json", image_folder, margin=0),
        EditConfig(lists("out.csv", "path", "can/can0.jpg#1"), lists("new.csv", "path,label", "can/can0.jpg#3,can")),
    )
    assert [(sample.path, source.classes[sample.label]) for sample in source.samples] == [
        ("can/can0.jpg#0", "can"), ("can/can0.jpg#2", "can"), ("can/can0.jpg#3", "can"),
    ]  # fmt: skip
    assert source.samples[1].box == (2, 2, 24, 22)


def test_edited_warns_about_unknown_paths(image_folder, lists, caplog):
    with caplog.at_level(logging.INFO):
        source = apply_edits(
            FolderSource(image_folder), EditConfig(exclude=lists("out.csv", "path", "bag/bag0.jpg", "bag/gone.jpg"))
        )
    assert len(source.samples) == 59
    assert "1 of 2 paths are not among the images, e.g. bag/gone.jpg" in caplog.text
    assert "left out by data.exclude: 1," in caplog.text


@pytest.mark.parametrize(
    ("key", "lines", "message"),
    [
        (
            "exclude",
            ["path", "elsewhere.jpg"],
            "contains none of the images, the first 'elsewhere.jpg': write paths as in",
        ),
        ("exclude", ["path"], "contains none of the images"),
        ("exclude", ["file", "a"], "no column path: the first line must be path; it is file"),
        ("exclude", ["path", *[f"{n}/{n}{i}.jpg" for n in ("bag", "can", "cup") for i in range(20)]], "none remains"),
        ("relabel", ["path,label", "bag/bag0.jpg,tin"], "gives bag/bag0.jpg the label tin, expected one of bag, can"),
        ("relabel", ["path,label", "bag/bag0.jpg,can", "bag/bag0.jpg,cup"], "bag/bag0.jpg is listed with two labels"),
        ("relabel", ["path,label", "bag/bag0.jpg,"], "line 2: the label is empty"),
    ],
)
def test_edited_invalid_list_raises_data_error(image_folder, lists, key, lines, message):
    with pytest.raises(DataError, match=message) as caught:
        data_module(image_folder, None, **{key: lists("list.csv", *lines)})
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=rf"data\.{key}=nowhere\.csv is not a file"):
        data_module(image_folder, None, **{key: "nowhere.csv"})
