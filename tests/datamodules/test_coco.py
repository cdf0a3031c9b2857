"""COCO files: boxes become the right crops, and what is no COCO file ends in one line."""

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from datamodules import DataError, boxes, images
from datamodules.cache import open_pixels
from datamodules.images import BrokenImage
from datamodules.sources import coco_json
from datamodules.sources.coco import CocoSource
from datamodules.waste import WasteDataModule

RED, GREEN, BLUE = (220, 20, 20), (20, 220, 20), (20, 20, 220)
CATEGORIES = {"can": 7, "foil": 3, "bag": 9}


def annotation(number, photo, category, bbox, **more):
    return {"id": number, "image_id": photo, "category_id": CATEGORIES[category], "bbox": bbox, "iscrowd": 0, **more}


def content(annotations, photos=((1, "day/one.png", 100, 60), (2, "two.png", 60, 100))):
    return {
        "images": [dict(zip(("id", "file_name", "width", "height"), photo, strict=True)) for photo in photos],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in CATEGORIES.items()],
    }


BOXES = [
    annotation(1, 2, "bag", [10, 10, 20, 30]),
    annotation(2, 1, "can", [0.0, 0.0, 40.0, 40.0]),
    annotation(3, 1, "foil", [60, 20, 40, 40]),
    annotation(4, 1, "can", [50, 0, 17, 5]),
    annotation(5, 1, "can", [0, 0, 90, 50], iscrowd=1),
    annotation(6, 2, "bag", [-8, 70, 30, 45]),
]


@pytest.fixture
def root(tmp_path):
    """Two photos, a plain colour in each box."""
    (tmp_path / "day").mkdir()
    for name, size, fills in (
        ("day/one.png", (100, 60), [((0, 0, 40, 40), RED), ((60, 20, 100, 60), GREEN)]),
        ("two.png", (60, 100), [((10, 10, 30, 40), BLUE), ((0, 70, 22, 100), RED)]),
    ):
        photo = Image.new("RGB", size, (128, 128, 128))
        for box, colour in fills:
            photo.paste(colour, box)
        photo.save(tmp_path / name)
    return tmp_path


@pytest.fixture
def make(root):
    def build(data=None, **options):
        (root / "boxes.json").write_text(json.dumps(content(BOXES) if data is None else data))
        return CocoSource(root / "boxes.json", **({"margin": 0} | options))

    return build


def test_each_box_becomes_the_crop_of_its_object(make):
    source = make()
    assert source.classes == ["bag", "can", "foil"]
    assert [(s.path, source.classes[s.label], s.group) for s in source.samples] == [
        ("day/one.png#2", "can", "day/one.png"),
        ("day/one.png#3", "foil", "day/one.png"),
        ("two.png#1", "bag", "two.png"),
        ("two.png#6", "bag", "two.png"),
    ]
    for index, (colour, shape) in enumerate(
        [(RED, (40, 40)), (GREEN, (40, 40)), (BLUE, (30, 20)), (RED, (30, 22))]  # the last is cut at two edges
    ):
        crop = source.read(index)
        assert crop.shape == (*shape, 3)
        assert (crop == colour).all()


def test_what_is_left_out_is_counted_and_said_once(make, caplog):
    source = make(categories={"can": "Metal", "foil": None, "*": "Rest"})
    assert source.classes == ["Metal", "Rest"]
    assert source.left_out == {"of no class": 1, "crowds": 1, "smaller than 16 px": 1}
    with caplog.at_level(logging.INFO):
        source.prepare()
    assert "3 crops of 2 photos; left out: 1 of no class" in caplog.text
    assert len(make(min_side=5).samples) == 5


def test_many_categories_make_one_class(make):
    source = make(categories={"can": "Metal", "foil": "Metal", "bag": "Bag"})
    assert [source.classes[s.label] for s in source.samples] == ["Metal", "Metal", "Bag", "Bag"]


def test_margin_widens_each_side_up_to_the_edge(make):
    source = make(margin=0.1)
    assert [s.box for s in source.samples] == [(0, 0, 44, 44), (56, 16, 100, 60), (8, 7, 32, 43), (0, 67, 25, 100)]
    assert (source.read(2)[3:-3, 2:-2] == BLUE).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"categories": {"can": "Metal", "foil": "Metal"}}, "says nothing of 'bag'"),
        ({"categories": {"tin": "Metal", "*": None}}, "names 'tin', which is no category"),
        ({"categories": {"*": None}}, r"no box is left \(6 of no class\)"),
        ({"margin": -1}, "data.source.margin=-1"),
        ({"margin": math.nan}, "data.source.margin=nan"),
        ({"min_side": 0}, "data.source.min_side=0"),
        ({"min_side": math.nan}, "data.source.min_side=nan"),
        ({"root": "nowhere"}, "data.root=nowhere is not a folder"),
    ],
)
def test_wrong_settings_are_named(make, options, says):
    with pytest.raises(DataError, match=says) as caught:
        make(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("file", "says"), [(None, "data.file is not given"), ("nowhere.json", "is not a file")])
def test_a_missing_file_is_named(file, says):
    with pytest.raises(DataError, match=says):
        CocoSource(file)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("turned", [True, False])
def test_a_turned_photo_gives_the_crop_that_was_annotated(make, root, orientation, turned):
    """`turned`: the annotator saw the photo upright; else as it is stored, which shows only where sides swap."""
    rng = np.random.default_rng(0)
    stored = Image.fromarray(rng.integers(0, 256, (40, 70, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(root / "two.png", exif=exif)
    with Image.open(root / "two.png") as photo:
        upright = ImageOps.exif_transpose(photo)
    seen = upright if turned or orientation < 5 else stored
    source = make(content([annotation(1, 2, "bag", [5, 8, 20, 17])], [(2, "two.png", *seen.size)]))
    crop = seen.crop((5, 8, 25, 25))
    if seen is stored:  # what the crop shows stands upright
        crop.getexif()[0x0112] = orientation
        crop = ImageOps.exif_transpose(crop)
    np.testing.assert_array_equal(source.read(0), np.array(crop))


def test_a_scaled_photo_gives_the_same_object(make, root):
    with Image.open(root / "two.png") as photo:
        photo.resize((30, 50), Image.Resampling.NEAREST).save(root / "two.png")
    crop = make().read(2)
    assert crop.shape == (15, 10, 3)
    assert (crop == BLUE).all()


def test_a_photo_of_another_shape_and_a_missing_one_are_broken_by_name(make, root, tmp_path):
    Image.new("RGB", (100, 60)).save(root / "two.png")
    (root / "day" / "one.png").unlink()
    pixels = open_pixels(make(), 8, "pad", cache_dir=tmp_path / "cache", progress=False)
    assert set(pixels.broken) == {0, 1, 2, 3}
    assert pixels.broken[0] == "cannot be read: No such file or directory"
    assert pixels.broken[2] == "has 100 x 60 pixels, but its boxes were drawn on 60 x 100"


def test_a_corrected_size_is_not_answered_from_the_cache(make, tmp_path):
    boxes_of_two = [annotation(1, 2, "bag", [10, 10, 20, 30])]
    cache = {"cache_dir": tmp_path / "cache", "progress": False}
    wrong = open_pixels(make(content(boxes_of_two, [(2, "two.png", 100, 60)])), 8, "pad", **cache)
    right = open_pixels(make(content(boxes_of_two, [(2, "two.png", 60, 100)])), 8, "pad", **cache)
    assert set(wrong.broken) == {0}
    assert right.broken == {}


def test_the_cache_holds_the_crops_and_decodes_each_photo_once(make, root, tmp_path, monkeypatch):
    decoded = []
    read_image = images.read_image
    monkeypatch.setattr(images, "read_image", lambda file, **options: decoded.append(1) or read_image(file, **options))
    source = make()
    pixels = open_pixels(source, 8, "pad", cache_dir=tmp_path / "cache", workers=1, progress=False)
    assert len(decoded) == 2
    for index in range(4):
        expected = images.resize(read_image(source.file(index), box=source.samples[index].box), 8, "pad")
        np.testing.assert_array_equal(pixels.array[index], expected)


def test_a_large_photo_is_decoded_small_but_never_below_twice_what_its_smallest_box_needs(make, root):
    ramp = np.repeat(np.linspace(0, 255, 1600).astype(np.uint8)[None, :, None], 1200, 0).repeat(3, 2)
    Image.fromarray(ramp).save(root / "big.jpg", quality=95)
    two = [annotation(1, 1, "bag", [0, 0, 800, 800]), annotation(2, 1, "can", [800, 400, 800, 400])]
    source = make(content(two, [(1, "big.jpg", 1600, 1200)]))
    assert source.read(0, 25).shape == (100, 100, 3)
    assert source.read(1, 25).shape == (50, 100, 3)
    assert source.read(1, None).shape == (400, 800, 3)
    small, full = source.read(1, 25), source.read(1)
    np.testing.assert_allclose(small.mean((0, 2)), full.reshape(400, 100, 8, 3).mean((0, 2, 3)), atol=2)


def test_a_photo_that_changes_is_never_stale(make, root):
    source = make()
    assert (source.read(2) == BLUE).all()
    Image.new("RGB", (60, 100), GREEN).save(root / "two.png")
    assert (source.read(2) == GREEN).all()


def test_boxes_of_one_photo_stay_on_one_side(root, make, tmp_path):
    photos, found = [], []
    for number in range(30):
        Image.new("RGB", (40, 40), (number * 8, 60, 60)).save(root / f"{number}.png")
        photos.append((number, f"{number}.png", 40, 40))
        found += [annotation(3 * number + i, number, ("can", "bag")[number % 2], [i, i, 20, 20]) for i in range(1, 4)]
    data = WasteDataModule(make(content(found, photos)), size=8, batch_size=4, cache_dir=tmp_path / "cache")
    data.setup("fit")
    sides = [{data.samples[row].group for row in rows} for rows in data.splits.values()]
    assert sum(map(len, sides)) == 30
    assert sum(len(rows) for rows in data.splits.values()) == 90
    assert next(iter(data.train_dataloader())).images.shape == (4, 8, 8, 3)


def test_one_number_in_two_photos_names_two_boxes(make):
    """As in TACO's own annotations."""
    source = make(content([annotation(1, 2, "bag", [10, 10, 20, 30]), annotation(1, 1, "can", [0, 0, 40, 40])]))
    assert [sample.path for sample in source.samples] == ["day/one.png#1", "two.png#1"]


def broken(**changes):
    """A file with one thing wrong: `annotations__bbox=...` changes that of the first annotation; DELETE removes it."""
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
    ("data", "says"),
    [
        ([], "a list of 0, expected images, annotations and categories"),
        (broken(images=DELETE), "images is missing, expected a list"),
        (broken(annotations={"a": 1}), "annotations is a dict of 1, expected a list"),
        (broken(categories=None), "categories is missing"),
        (broken(annotations=[3]), r"annotations\[0\] is 3, expected an object"),
        (broken(annotations__id=DELETE), r"annotations\[0\]: id is missing"),
        (broken(annotations__bbox=DELETE), r"annotations\[0\]: bbox is missing"),
        (broken(annotations__bbox="1,2,3,4"), "bbox is '1,2,3,4'"),
        (broken(annotations__bbox=[1, 2, 3]), "bbox is a list of 3"),
        (broken(annotations__bbox=[1, 2, None, 3]), "bbox holds missing, expected px"),
        (broken(annotations__bbox=[1, 2, math.nan, 3]), "bbox holds nan, expected finite px"),
        (broken(annotations__bbox=[1, 2, 3, math.inf]), "bbox holds inf"),
        (broken(annotations__bbox=[1, 2, 3, True]), "bbox holds True"),
        (broken(annotations__bbox=[1, 2, 3, 10**400]), "bbox holds a huge number"),
        (broken(annotations__bbox=[1, 2, -3, 4]), "negative side"),
        (broken(annotations__bbox=[61, 2, 3, 4]), r"lies outside its photo two\.png of 60 x 100"),
        (broken(annotations__bbox=[-9, 2, 3, 4]), "lies outside its photo"),
        (broken(annotations__image_id=99), "image_id is 99, expected the id of one of the images"),
        (broken(annotations__image_id=[1]), "image_id is a list of 1"),
        (broken(annotations__category_id="7"), "category_id is '7', expected the id of one of the categories"),
        (broken(annotations__iscrowd="no"), "iscrowd is 'no', expected 0 or 1"),
        (broken(images__width=DELETE), r"images\[0\]: width holds missing"),
        (broken(images__width=0), "width and height are 0 and 60"),
        (broken(images__height=10.5), "width and height are 100 and 10.5"),
        (broken(images__id=2), r"images\[1\]: id 2 is there twice"),
        (broken(images__id=True), r"images\[0\]: id is True"),
        (broken(images__file_name=5), r"file_name is 5, expected text"),
        (broken(images__file_name="two.png"), r"images\[1\]: file_name two\.png is that of images\[0\] too"),
        (broken(images__file_name="../secret.png"), "expected a path below data.root"),
        (broken(images__file_name="/etc/passwd"), "expected a path below data.root"),
        (broken(images__file_name="C:\\secret.png"), "expected a path below data.root"),
        (broken(images__file_name="a\nb.png"), "expected a path below data.root"),
        (broken(images__file_name="."), "expected a path below data.root"),
        (broken(images__file_name="\ud800.png"), "expected text"),
        (broken(categories__name=None), r"categories\[0\]: name is missing, expected text"),
        (broken(categories__id=3), "id 3 is there twice"),
        (content([BOXES[0], BOXES[0]]), r"annotations\[1\]: id 1 is there twice in photo two\.png"),
        (content([]), r"no box is left \(there are none\)"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_place(make, data, says):
    with pytest.raises(DataError, match=says) as caught:
        make(data)
    assert "boxes.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "is no JSON"),
        (b"\x00\x01", "is no JSON"),
        (b"\xff\xfe\xfa", "is no JSON"),
        (b'{"images": [', "is no JSON"),
        (b"[" * 500_000, "is nested too deeply"),
        (b'{"a":' * 500_000, "is nested too deeply"),
        (b'{"images": [' + b"9" * 5000 + b"]}", "is no JSON"),
        (b"<html>404</html>", "is no JSON"),
    ],
)
def test_what_is_no_json_is_one_line(tmp_path, raw, says):
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(DataError, match=says) as caught:
        CocoSource(tmp_path / "a.json")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_an_enormous_file_is_not_even_read(tmp_path, monkeypatch):
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(coco_json.MAX_BYTES + 1)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("read"))
    with pytest.raises(DataError, match="512 MB long, more than the limit of 512"):
        CocoSource(tmp_path / "a.json")


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from([10**400, "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_anything_anywhere_is_read_or_refused_in_one_line(tmp_path_factory, data):
    """Up to three values of a good file, on any level, become anything."""
    coco = json.loads(json.dumps(content(BOXES)))
    for _ in range(data.draw(st.integers(1, 3))):
        spots = list(_spots(coco))
        parent, key = data.draw(st.sampled_from(spots))
        parent[key] = data.draw(ANYTHING)
    file = tmp_path_factory.getbasetemp() / "mutated.json"
    file.write_text(json.dumps(coco))
    source, line = attempt(file)
    assert "\n" not in line
    assert len(line) < 800
    if source:
        check_samples(source)


def attempt(file, **options):
    """The source, or the line that refuses it."""
    try:
        return CocoSource(file, **options), ""
    except DataError as error:
        return None, str(error)


def _spots(value):
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _spots(inner)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_refused_in_one_line(tmp_path_factory, raw):
    file = tmp_path_factory.getbasetemp() / "raw.json"
    file.write_bytes(raw)
    with pytest.raises(DataError) as caught:
        CocoSource(file)
    assert "\n" not in str(caught.value)


def check_samples(source):
    assert len({sample.path for sample in source.samples}) == len(source.samples)
    for index, sample in enumerate(source.samples):
        left, top, right, bottom = sample.box
        photo = source.photo(index)
        assert 0 <= left < right <= photo.width
        assert 0 <= top < bottom <= photo.height
        assert sample.frame == (photo.width, photo.height)
        assert sample.group == photo.name
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
    photos = [(number, f"{number}.jpg", *size) for number, size in enumerate(sizes)]
    annotations = []
    for number, (photo, x, y, w, h, category, crowd) in enumerate(found):
        width, height = sizes[photo % len(sizes)]
        bbox = [x * width, y * height, w * width, h * height]
        annotations.append(annotation(number, photo % len(sizes), category, bbox, iscrowd=int(crowd)))
    file = tmp_path_factory.getbasetemp() / "valid.json"
    file.write_text(json.dumps(content(annotations, photos)))
    source, line = attempt(file, margin=margin, min_side=min_side)
    if source is None:
        assert "no box is left" in line
        return
    check_samples(source)
    assert len(source.samples) + sum(source.left_out.values()) == len(annotations)
    for sample in source.samples:
        assert min(sample.box[2] - sample.box[0], sample.box[3] - sample.box[1]) >= math.floor(min_side)


@settings(max_examples=100, deadline=None)
@given(SIDE, SIDE, st.integers(1, 8), st.floats(0.1, 2), st.data())
def test_a_placed_box_lies_in_the_photo_and_keeps_its_area(width, height, orientation, scale, data):
    left, right = sorted(data.draw(st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True)))
    top, bottom = sorted(data.draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True)))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    upright = size if orientation < 5 or data.draw(st.booleans()) else size[::-1]
    try:
        box = boxes.placed((left, top, right, bottom), (width, height), upright, orientation)
    except BrokenImage:
        assert upright != size or max(size) < 100  # a few pixels have no shape to speak of
        return
    assert 0 <= box[0] < box[2] <= upright[0]
    assert 0 <= box[1] < box[3] <= upright[1]
