"""COCO files: each box gives the right crop."""

import json
import logging
import math
import re
from pathlib import Path

import numpy as np
import pytest
from coco_files import BOXES, annotation, content
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image, ImageOps
from toy_images import data_module

from datamodules import images
from datamodules.cache import open_pixels
from datamodules.cache.config import CacheConfig
from datamodules.sources.coco import CocoSource
from litesort.cli.compose import CONF
from litesort.errors import DataError

RED, GREEN, BLUE = (220, 20, 20), (20, 220, 20), (20, 20, 220)


@pytest.fixture
def root(tmp_path):
    """Two images in which each box is filled with one colour."""
    (tmp_path / "day").mkdir()
    for name, size, fills in (
        ("day/one.png", (100, 60), [((0, 0, 40, 40), RED), ((60, 20, 100, 60), GREEN)]),
        ("two.png", (60, 100), [((10, 10, 30, 40), BLUE), ((0, 70, 22, 100), RED)]),
    ):
        image = Image.new("RGB", size, (128, 128, 128))
        for box, colour in fills:
            image.paste(colour, box)
        image.save(tmp_path / name)
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


def test_coco_logs_left_out_boxes_once(make, caplog):
    source = make(categories={"can": "Metal", "foil": None, "*": "Rest"})
    assert source.classes == ["Metal", "Rest"]
    assert source.left_out == {"of no class": 1, "crowds": 1, "smaller than 16 px": 1}
    with caplog.at_level(logging.INFO):
        source.prepare()
        source.prepare()  # a data module may prepare its source twice
    assert caplog.text.count("3 crops of 2 images; left out: 1 of no class") == 1
    assert len(make(min_side=5).samples) == 5


def test_several_categories_become_one_class(make):
    source = make(categories={"can": "Metal", "foil": "Metal", "bag": "Bag"})
    assert [source.classes[s.label] for s in source.samples] == ["Metal", "Metal", "Bag", "Bag"]


def test_documented_category_map_parses_on_the_command_line():
    files = [Path("docs/guides/data.md"), Path("conf/data/coco.yaml")]
    maps = [re.search(r"'(\{can: .*?\})'", (CONF.parent / file).read_text()) for file in files]
    for found in maps:
        (override,) = OverridesParser.create().parse_overrides([f"data.source.categories={found[1]}"])
        assert override.value() == {"can": "Metal", "foil": "Metal", "*": None}


def test_margin_extends_each_side_up_to_the_edge(make):
    source = make(margin=0.1)
    assert [s.box for s in source.samples] == [(0, 0, 44, 44), (56, 16, 100, 60), (8, 7, 32, 43), (0, 67, 25, 100)]
    assert (source.read(2)[3:-3, 2:-2] == BLUE).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"categories": {"can": "Metal", "foil": "Metal"}}, "does not name 'bag'"),
        ({"categories": {"tin": "Metal", "*": None}}, "names 'tin', which is not a category"),
        ({"categories": {"*": None}}, r"no box remains \(6 of no class\)"),
        ({"margin": -1}, "data.source.margin=-1"),
        ({"margin": math.nan}, "data.source.margin=nan"),
        ({"min_side": 0}, "data.source.min_side=0"),
        ({"min_side": math.nan}, "data.source.min_side=nan"),
        ({"root": "nowhere"}, "data.root=nowhere is not a folder"),
    ],
)
def test_invalid_settings_raise_data_error(make, options, message):
    with pytest.raises(DataError, match=message) as caught:
        make(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("file", "message"), [(None, "data.file is not set"), ("nowhere.json", "is not a file")])
def test_missing_file_raises_data_error(file, message):
    with pytest.raises(DataError, match=message):
        CocoSource(file)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("is_upright", [True, False])
def test_rotated_image_gives_the_annotated_crop(make, root, orientation, is_upright):
    """Boxes refer to the upright or to the stored image; stored ones are recognised by swapped width and height."""
    rng = np.random.default_rng(0)
    stored = Image.fromarray(rng.integers(0, 256, (40, 70, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(root / "two.png", exif=exif)
    with Image.open(root / "two.png") as image:
        upright = ImageOps.exif_transpose(image)
    seen = upright if is_upright or orientation < 5 else stored
    source = make(content([annotation(1, 2, "bag", [5, 8, 20, 17])], [(2, "two.png", *seen.size)]))
    crop = seen.crop((5, 8, 25, 25))
    if seen is stored:  # the source returns crops upright
        crop.getexif()[0x0112] = orientation
        crop = ImageOps.exif_transpose(crop)
    np.testing.assert_array_equal(source.read(0), np.array(crop))


def test_a_scaled_image_gives_the_same_object(make, root):
    with Image.open(root / "two.png") as image:
        image.resize((30, 50), Image.Resampling.NEAREST).save(root / "two.png")
    crop = make().read(2)
    assert crop.shape == (15, 10, 3)
    assert (crop == BLUE).all()


def test_image_of_another_shape_and_missing_image_are_broken_with_a_reason(make, root, tmp_path):
    Image.new("RGB", (100, 60)).save(root / "two.png")
    (root / "day" / "one.png").unlink()
    pixels = open_pixels(make(), 8, "pad", CacheConfig(cache_dir=tmp_path / "cache"), progress=False)
    assert set(pixels.broken) == {0, 1, 2, 3}
    assert pixels.broken[0] == "cannot be read: No such file or directory"
    assert pixels.broken[2] == "has 100 x 60 pixels, but its boxes refer to 60 x 100 pixels"


def test_corrected_size_gives_a_new_cache(make, tmp_path):
    boxes_of_two = [annotation(1, 2, "bag", [10, 10, 20, 30])]
    config = CacheConfig(cache_dir=tmp_path / "cache")
    wrong = open_pixels(make(content(boxes_of_two, [(2, "two.png", 100, 60)])), 8, "pad", config, progress=False)
    right = open_pixels(make(content(boxes_of_two, [(2, "two.png", 60, 100)])), 8, "pad", config, progress=False)
    assert set(wrong.broken) == {0}
    assert right.broken == {}


def test_the_cache_holds_the_crops_and_decodes_each_image_once(make, root, tmp_path, monkeypatch):
    decoded = []
    read_image = images.read_image
    monkeypatch.setattr(images, "read_image", lambda file, **options: decoded.append(1) or read_image(file, **options))
    source = make()
    pixels = open_pixels(source, 8, "pad", CacheConfig(cache_dir=tmp_path / "cache"), workers=1, progress=False)
    assert len(decoded) == 2
    for index in range(4):
        expected = images.resize(read_image(source.file(index), box=source.samples[index].box), 8, "pad")
        np.testing.assert_array_equal(pixels.array[index], expected)


def test_large_image_is_decoded_at_twice_the_size_of_its_smallest_box_or_more(make, root):
    ramp = np.repeat(np.linspace(0, 255, 1600).astype(np.uint8)[None, :, None], 1200, 0).repeat(3, 2)
    Image.fromarray(ramp).save(root / "big.jpg", quality=95)
    two = [annotation(1, 1, "bag", [0, 0, 800, 800]), annotation(2, 1, "can", [800, 400, 800, 400])]
    source = make(content(two, [(1, "big.jpg", 1600, 1200)]))
    assert source.read(0, 25).shape == (100, 100, 3)
    assert source.read(1, 25).shape == (50, 100, 3)
    assert source.read(1, None).shape == (400, 800, 3)
    small, full = source.read(1, 25), source.read(1)
    np.testing.assert_allclose(small.mean((0, 2)), full.reshape(400, 100, 8, 3).mean((0, 2, 3)), atol=2)


def test_changed_image_is_read_again(make, root):
    source = make()
    assert (source.read(2) == BLUE).all()
    Image.new("RGB", (60, 100), GREEN).save(root / "two.png")
    assert (source.read(2) == GREEN).all()


def test_boxes_of_one_image_stay_in_one_split(root, make, tmp_path):
    records, found = [], []
    for number in range(30):
        Image.new("RGB", (40, 40), (number * 8, 60, 60)).save(root / f"{number}.png")
        records.append((number, f"{number}.png", 40, 40))
        found += [annotation(3 * number + i, number, ("can", "bag")[number % 2], [i, i, 20, 20]) for i in range(1, 4)]
    data = data_module(None, tmp_path / "cache", source=make(content(found, records)), size=8, batch_size=4)
    data.setup("fit")
    groups = [{data.samples[row].group for row in rows} for rows in data.splits.values()]
    assert sum(map(len, groups)) == 30
    assert sum(len(rows) for rows in data.splits.values()) == 90
    assert next(iter(data.train_dataloader())).images.shape == (4, 8, 8, 3)


def test_boxes_of_two_images_may_share_an_id(make):
    """The annotations of TACO have such ids."""
    source = make(content([annotation(1, 2, "bag", [10, 10, 20, 30]), annotation(1, 1, "can", [0, 0, 40, 40])]))
    assert [sample.path for sample in source.samples] == ["day/one.png#1", "two.png#1"]
