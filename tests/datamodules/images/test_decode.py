"""Every kind of image file is decoded correctly and resized to a square in one way."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import encoded, smooth_image
from PIL import Image, ImageOps

from datamodules import images
from datamodules.images.decode import BrokenImage, content_digest, load, read_image
from datamodules.images.resize import resize

SHAPES = st.tuples(st.integers(1, 90), st.integers(1, 90))


def max_difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "PPM", "TGA"])
def test_lossless_file_is_decoded_exactly(kind):
    assert np.array_equal(
        read_image(encoded(smooth_image(), kind, **({"lossless": True} if kind == "WEBP" else {}))), smooth_image()
    )


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 2}])
def test_jpeg_has_the_pixels_of_pillow(mode, options):
    data = encoded(Image.fromarray(smooth_image()).convert(mode), "JPEG", **options)
    assert np.array_equal(read_image(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("min_side", [None, 8, 12, 24, 100])
def test_a_jpeg_has_the_same_pixels_without_the_accelerator(monkeypatch, min_side):
    data = encoded(smooth_image(200, 311), "JPEG")
    fast = read_image(data, min_side=min_side)
    monkeypatch.setattr(images.decode, "simplejpeg", None)
    assert np.array_equal(read_image(data, min_side=min_side), fast)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_an_image_upright(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(smooth_image(), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    found = read_image(data)
    assert found.shape == ((48, 64, 3) if orientation < 5 else (64, 48, 3))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 9]
)
def test_damaged_exif_does_not_lose_the_image(exif, recwarn):
    assert read_image(encoded(smooth_image(), "JPEG", exif=exif)).shape == (48, 64, 3)


def test_grey_palette_one_bit_and_cmyk_become_rgb():
    image = Image.fromarray(smooth_image())
    for mode in ("L", "P", "1", "CMYK", "YCbCr"):
        converted = image.convert(mode)
        data = encoded(
            converted, {"CMYK": "JPEG", "YCbCr": "TIFF"}.get(mode, "PNG"), **({"quality": 98} if mode == "CMYK" else {})
        )
        assert max_difference(read_image(data), np.asarray(converted.convert("RGB"))) <= (12 if mode == "CMYK" else 3)


def test_lab_becomes_rgb():
    lab = Image.merge("LAB", [Image.new("L", (4, 4), value) for value in (255, 128, 128)])
    assert read_image(encoded(lab, "TIFF")).min() > 245  # white


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_are_scaled_not_clipped(mode):
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64)
    image = Image.fromarray(ramp.astype(np.uint16 if mode == "I;16" else np.int32))
    assert image.mode == mode
    found = read_image(encoded(image, "TIFF"))
    assert max_difference(found[..., 0], np.round(ramp / 257)) <= 1
    assert np.array_equal(found[..., 0], found[..., 2])


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 255), (-3, 5000)])
def test_float_pixels_keep_their_range(low, high):
    ramp = np.linspace(0, 1, 64 * 48).reshape(48, 64)
    values = (low + ramp * (high - low)).astype(np.float32)
    values[0, 0] = np.nan if low == 0 else low
    found = read_image(encoded(Image.fromarray(values), "TIFF"))
    assert max_difference(found[..., 0], np.round(ramp * 255)) <= 1


def test_constant_float_image_is_decoded():
    assert read_image(encoded(Image.fromarray(np.full((4, 4), 900, np.float32)), "TIFF")).shape == (4, 4, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_areas_become_grey(mode):
    pixels = np.dstack([smooth_image(), np.full((48, 64), 255, np.uint8)])
    pixels[:10, :, 3] = 0
    image = Image.fromarray(pixels).convert(mode)
    found = read_image(encoded(image, "PNG"))
    assert (found[:10] == images.GREY).all()
    assert max_difference(found[10:], np.asarray(image.convert("RGBA").convert("RGB"))[10:]) <= 1


def test_the_first_frame_of_an_animation_is_read():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (read_image(data) == (255, 0, 0)).all()


def test_a_box_is_cut_from_the_upright_image_and_at_its_edge():
    data = encoded(smooth_image())
    assert np.array_equal(read_image(data, box=(10, 5, 30, 20)), smooth_image()[5:20, 10:30])
    assert np.array_equal(read_image(data, box=(-5, 40, 900, 900)), smooth_image()[40:])
    with pytest.raises(BrokenImage, match="no pixels"):
        read_image(data, box=(70, 0, 90, 10))


def test_box_of_a_reduced_image_is_close_to_full_decoding(tmp_path):
    data, box = encoded(smooth_image(512, 768), "JPEG"), (100, 60, 420, 300)
    reduced = read_image(data, box=box, min_side=32)
    assert reduced.shape == (120, 160, 3)
    assert np.abs(resize(reduced, 32, "pad").astype(int) - resize(read_image(data, box=box), 32, "pad")).mean() < 2


@given(SHAPES, st.integers(1, 70), st.sampled_from(images.POLICIES))
@settings(max_examples=80, deadline=None)
def test_every_image_becomes_a_square(shape, size, policy):
    square = resize(smooth_image(*shape), size, policy)
    assert square.shape == (size, size, 3)
    assert square.dtype == np.uint8
    assert square.flags.c_contiguous


@given(SHAPES, st.integers(1, 70), st.integers(0, 255), st.sampled_from(images.POLICIES))
@settings(max_examples=60, deadline=None)
def test_colour_is_kept_and_only_padding_is_grey(shape, size, value, policy):
    square = resize(np.full((*shape, 3), value, np.uint8), size, policy)
    inside = (square == value).all(axis=2)
    if policy != "pad":
        assert inside.all()
        return
    height, width = (max(1, round(side * size / max(shape))) for side in shape)
    if value != images.GREY:
        assert inside.sum() == height * width
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        assert abs(rows[0] - (size - 1 - rows[-1])) <= 1  # centred
        assert abs(columns[0] - (size - 1 - columns[-1])) <= 1
    assert (square[~inside] == images.GREY).all()


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (200, 31), (20, 20), (9, 300)])
def test_resize_equals_pillow_within_one_level(shape):
    image = smooth_image(*shape)
    height, width = (max(1, round(side * 40 / max(shape))) for side in shape)
    bilinear = Image.Resampling.BILINEAR
    kept = np.asarray(Image.fromarray(image).resize((width, height), bilinear))
    squashed = np.asarray(Image.fromarray(image).resize((40, 40), bilinear))
    top, left = (40 - height) // 2, (40 - width) // 2
    assert max_difference(resize(image, 40, "pad")[top : top + height, left : left + width], kept) <= 1
    assert max_difference(resize(image, 40, "squash"), squashed) <= 1
    side = min(shape)
    cut = image[(shape[0] - side) // 2 :, (shape[1] - side) // 2 :][:side, :side]
    assert max_difference(resize(image, 40, "crop"), np.asarray(Image.fromarray(cut).resize((40, 40), bilinear))) <= 1


@pytest.mark.parametrize("shape", [(1, 10000), (10000, 1), (1, 1)])
@pytest.mark.parametrize("policy", images.POLICIES)
def test_extreme_shapes_work(shape, policy):
    assert resize(np.full((*shape, 3), 9, np.uint8), 64, policy).min() == 9


def test_an_unknown_policy_is_named():
    with pytest.raises(ValueError, match="stretch"):
        resize(smooth_image(), 8, "stretch")


def test_reduced_decoding_is_close_to_full_decoding(tmp_path):
    path = tmp_path / "large.jpg"
    path.write_bytes(encoded(smooth_image(900, 1200), "JPEG", quality=92))
    assert read_image(path, min_side=96).shape == (225, 300, 3)
    for policy in images.POLICIES:
        full = resize(read_image(path), 96, policy)
        assert np.abs(load(path, 96, policy).astype(int) - full).mean() < 1.5  # a crop moves by a fifth of a pixel


def test_the_digest_changes_with_content_and_box(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    seen = {content_digest(path), content_digest(path, (0, 0, 1, 1)), content_digest(path, (0, 0, 1, 2))}
    path.write_bytes(b"two")
    assert len(seen | {content_digest(path)}) == 4
    assert content_digest(path) == content_digest(str(path))
