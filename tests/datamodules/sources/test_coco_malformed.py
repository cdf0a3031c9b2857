"""A file that is not COCO gives a one-line error; in a COCO file every box is a sample or is counted as skipped."""

import json
import math

import pytest
from coco_files import BOXES, CATEGORIES, annotation, content
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.images import boxes
from datamodules.images.decode import BrokenImage
from datamodules.sources.coco import CocoSource
from litesort.errors import DataError


@pytest.fixture
def make(tmp_path):
    def build(data):
        (tmp_path / "boxes.json").write_text(json.dumps(data))
        return CocoSource(tmp_path / "boxes.json", margin=0)

    return build


def broken(**changes):
    """A file with one fault: `annotations__bbox=...` replaces `bbox` of the first annotation; DELETE removes it."""
    data = content([dict(BOXES[0])])
    for key, value in changes.items():
        where, _, name = key.partition("__")
        target = data[where][0] if name else data
        target[name or where] = value
        if value is DELETE:
            del target[name or where]
    return data


DELETE = object()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "has no list 'categories': give a COCO file with images, annotations and categories"),
        (broken(images=DELETE), "has no list 'images'"),
        (broken(annotations={"a": 1}), "has no list 'annotations'"),
        (broken(annotations=[3]), r"annotations\[0\]\.id is missing: expected int or str"),
        (broken(annotations__id=DELETE), r"annotations\[0\]\.id is missing"),
        (broken(annotations__bbox=DELETE), r"annotations\[0\]\.bbox is missing: expected list"),
        (broken(annotations__bbox=[1, 2, 3]), r"bbox is \[1, 2, 3\]: expected \[left, top, width, height\] in px"),
        (broken(annotations__bbox=[1, 2, None, 3]), "bbox is .*None"),
        (broken(annotations__bbox=[1, 2, math.nan, 3]), "bbox is .*nan"),
        (broken(annotations__bbox=[1, 2, 3, math.inf]), "bbox is .*inf"),
        (broken(annotations__bbox=[1, 2, -3, 4]), "expected a box in its image"),
        (broken(annotations__bbox=[61, 2, 3, 4]), r"expected a box in its image two\.png of 60 x 100 px"),
        (broken(annotations__bbox=[-9, 2, 3, 4]), "expected a box in its image"),
        (broken(annotations__image_id=99), "image_id is 99: expected the id of one of the images"),
        (broken(annotations__category_id="7"), "category_id is '7': expected the id of one of the categories"),
        (broken(images__width=DELETE), r"images\[0\]\.width is missing: expected int or float"),
        (broken(images__width=0), r"width and height are \[0, 60\]: expected integers of at least 1"),
        (broken(images__height=10.5), r"width and height are \[100, 10\.5\]"),
        (broken(images__id=2), r"images\[1\]\.id is 2, as in an earlier entry"),
        (broken(images__file_name="two.png"), r"2 images have the file_name two\.png"),
        (broken(images__file_name="../secret.png"), "expected a path below data.root"),
        (broken(images__file_name="/etc/passwd"), "expected a path below data.root"),
        (broken(images__file_name="C:\\secret.png"), "expected a path below data.root"),
        (broken(images__file_name="a\nb.png"), "expected a path below data.root"),
        (broken(categories__name=None), r"categories\[0\]\.name is missing: expected str"),
        (content([BOXES[0], BOXES[0]]), r"annotations\[1\]\.id is 1, used twice in image two\.png"),
        (content([]), r"no box remains \(there are none\)"),
    ],
)
def test_coco_errors_name_the_entry(make, data, message):
    with pytest.raises(DataError, match=message) as caught:
        make(data)
    assert "boxes.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe\xfa", b'{"images": [', b"[" * 500_000, b"<html>404</html>"])
def test_coco_invalid_json_raises_data_error(tmp_path, raw):
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.json cannot be read as JSON") as caught:
        CocoSource(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


def attempt(file, **options):
    """Return the source, or the text of its error."""
    try:
        return CocoSource(file, **options), ""
    except DataError as error:
        return None, str(error)


def check_samples(source):
    assert len({sample.path for sample in source.samples}) == len(source.samples)
    for index, sample in enumerate(source.samples):
        left, top, right, bottom = sample.box
        record = source.image(index)
        assert 0 <= left < right <= record.width
        assert 0 <= top < bottom <= record.height
        assert sample.frame == (record.width, record.height)
        assert sample.group == record.name
        assert source.root in source.file(index).parents


SIDE = st.integers(1, 5000)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(SIDE, SIDE), min_size=1, max_size=4),
    st.lists(
        st.tuples(st.integers(0, 3), *[st.floats(0, 1)] * 4, st.sampled_from(sorted(CATEGORIES)), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    st.floats(0, 2),
    st.floats(1, 50),
)
def test_every_box_is_a_sample_or_counted(tmp_path_factory, sizes, found, margin, min_side):
    records = [(number, f"{number}.jpg", *size) for number, size in enumerate(sizes)]
    annotations = []
    for number, (record, x, y, w, h, category, crowd) in enumerate(found):
        width, height = sizes[record % len(sizes)]
        bbox = [x * width, y * height, w * width, h * height]
        annotations.append(annotation(number, record % len(sizes), category, bbox, iscrowd=int(crowd)))
    file = tmp_path_factory.getbasetemp() / "valid.json"
    file.write_text(json.dumps(content(annotations, records)))
    source, line = attempt(file, margin=margin, min_side=min_side)
    if source is None:
        assert "no box remains" in line
        return
    check_samples(source)
    assert len(source.samples) + sum(source.left_out.values()) == len(annotations)
    for sample in source.samples:
        assert min(sample.box[2] - sample.box[0], sample.box[3] - sample.box[1]) >= math.floor(min_side)


@settings(max_examples=100, deadline=None)
@given(SIDE, SIDE, st.integers(1, 8), st.floats(0.1, 2), st.data())
def test_a_placed_box_lies_in_the_image_and_keeps_its_area(width, height, orientation, scale, data):
    left, right = sorted(data.draw(st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True)))
    top, bottom = sorted(data.draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True)))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    upright = size if orientation < 5 or data.draw(st.booleans()) else size[::-1]
    try:
        box = boxes.map_to_file((left, top, right, bottom), (width, height), upright, orientation)
    except BrokenImage:
        assert upright != size or max(size) < 100  # the ratio of small sizes is inexact
        return
    assert 0 <= box[0] < box[2] <= upright[0]
    assert 0 <= box[1] < box[3] <= upright[1]
