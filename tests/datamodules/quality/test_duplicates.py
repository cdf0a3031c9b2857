"""Edited copies of an image are duplicates; images of other objects on the same background are not."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance
from toy_images import data_module

from datamodules import images
from datamodules.cache.config import CacheConfig
from datamodules.quality.duplicates import duplicate_groups, similar_pairs
from datamodules.sources.folder import FolderSource
from litesort.errors import DataError

SCENES = 24


def scene(seed):
    """An image of a few random shapes on the same background in all images, which is darker at one side."""
    rng = np.random.default_rng(seed)
    light = np.linspace(90, 235, 200)[None, :, None] + np.zeros((150, 1, 1))
    image = Image.fromarray((light + rng.normal(0, 2, (150, 200, 1))).clip(0, 255).astype(np.uint8).repeat(3, 2))
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        x, y = rng.integers(30, 130), rng.integers(20, 90)
        corners = [(int(x + dx), int(y + dy)) for dx, dy in rng.integers(0, 55, (5, 2))]
        draw.polygon(corners, fill=tuple(int(level) for level in rng.integers(20, 236, 3)))
    return image


def encoded(image):
    stream = io.BytesIO()
    image.resize((150, 112)).save(stream, "JPEG", quality=35)
    return Image.open(stream).convert("RGB")


CHANGES = {
    "equal": lambda image: image,
    "encoded": encoded,
    "brightened": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "darkened": lambda image: ImageEnhance.Contrast(ImageEnhance.Brightness(image).enhance(0.7)).enhance(0.8),
    "cropped": lambda image: image.crop((4, 8, 190, 147)),
    "cropped at a corner": lambda image: image.crop((18, 13, 200, 150)),
}


def small(scenes):
    return np.stack([images.resize(np.array(image), 64, "squash") for image in scenes])


def pairs(pixels, **options):
    first, second, similarity = similar_pairs(pixels, **options)
    assert (first < second).all()
    assert (similarity <= 1.0001).all()
    return set(zip(first.tolist(), second.tolist(), strict=True))


def test_different_objects_on_one_background_are_not_duplicates():
    assert pairs(small(map(scene, range(SCENES)))) == set()


@pytest.mark.parametrize("change", CHANGES)
def test_similar_pairs_finds_copies(change):
    scenes = [scene(seed) for seed in range(SCENES)]
    found = pairs(small([*scenes, *map(CHANGES[change], scenes)]))
    expected = {(row, row + SCENES) for row in range(SCENES)}
    assert found <= expected
    assert len(found) >= 0.95 * SCENES


def test_similar_pairs_do_not_depend_on_the_batch_size(monkeypatch):
    scenes = [scene(seed) for seed in range(9)]
    pixels = small([*scenes, *map(encoded, scenes)])
    whole = pairs(pixels)
    monkeypatch.setattr("datamodules.quality.duplicates.BATCH", 4)
    assert pairs(pixels) == whole


def test_similar_pairs_distinguishes_colours():
    image = np.array(scene(1))
    red = (image // 3 * [3, 1, 1] + [0, 40, 0]).astype(np.uint8)
    assert pairs(small([image, red])) == set()


def test_images_without_content_are_duplicates_only_if_equal():
    flat = np.stack([np.full((64, 64, 3), level, np.uint8) for level in (0, 90, 90, 200)])
    assert pairs(flat) == {(1, 2)}
    assert pairs(flat, skip={2: "broken"}) == set()


@pytest.fixture
def root(tmp_path):
    """Two classes with 12 scenes and two files per scene; a copy of one scene in the other class; a broken file."""
    for name in ("bag", "can"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    for seed in range(SCENES):
        folder = tmp_path / "photos" / ("bag", "can")[seed % 2]
        scene(seed).save(folder / f"{seed}.png")
        encoded(scene(seed)).save(folder / f"{900 - seed}.jpg")
    encoded(scene(0)).save(tmp_path / "photos" / "can" / "copy.png")
    (tmp_path / "photos" / "can" / "broken.jpg").write_bytes(b"")
    return tmp_path / "photos"


def test_duplicates_stay_in_one_split_for_any_size_and_policy(root, tmp_path):
    splits = []
    for options in ({"size": 8}, {"size": 24, "resize": "crop", "cache": "memory"}):
        data = data_module(root, tmp_path / "cache", group_by="duplicates", **options)
        split_of = {data.samples[row].path: name for name, rows in data.splits.items() for row in rows}
        for seed in range(SCENES):
            name = ("bag", "can")[seed % 2]
            assert split_of[f"{name}/{seed}.png"] == split_of[f"{name}/{900 - seed}.jpg"]
        assert split_of["can/copy.png"] == split_of["bag/0.png"]
        assert len(set(split_of.values())) == 3
        splits.append({path: name for path, name in split_of.items() if path != "can/broken.jpg"})
    assert splits[0] == splits[1]


def test_duplicates_form_groups_and_a_broken_image_is_a_separate_group(root, tmp_path):
    source = FolderSource(root)
    groups = duplicate_groups(source, CacheConfig(cache_dir=tmp_path / "cache"))
    sizes = np.bincount(groups)
    assert sorted(sizes.tolist()) == [1] + [2] * (SCENES - 1) + [3]
    broken = next(row for row, sample in enumerate(source.samples) if sample.path == "can/broken.jpg")
    assert sizes[groups[broken]] == 1


def test_duplicate_groups_invalid_settings_raise_data_error(root, tmp_path):
    options = {"group_by": "duplicates", "size": 8}
    with pytest.raises(DataError, match=r"data\.group_block=10 needs data\.group_by: a regular expression"):
        _ = data_module(root, tmp_path, group_block=10, **options).splits
    with pytest.raises(DataError, match=r"finding duplicates needs a cache .*data\.cache_budget_gb"):
        _ = data_module(root, tmp_path, cache_budget_gb=1e-9, cache="off", **options).splits
