"""Unusual image files are reported with the reason; ordinary files are not."""

import numpy as np
import pytest
from PIL import Image

from datamodules.quality.image_issues import has_one_colour, image_issues

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def rotated_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize(
    ("name", "save", "found"),
    [
        ("a.jpg", lambda path: NOISE.save(path), []),
        ("a.JPEG", lambda path: NOISE.save(path), []),
        ("a.png", lambda path: NOISE.save(path), []),
        ("a.png", lambda path: NOISE.convert("L").save(path), []),
        ("a.jpg", lambda path: NOISE.save(path, "PNG"), ["PNG with suffix .jpg"]),
        ("a", lambda path: NOISE.save(path, "PNG"), ["PNG with suffix none"]),
        ("a.jpg", lambda path: NOISE.convert("CMYK").save(path), ["CMYK colours"]),
        ("a.png", lambda path: NOISE.convert("1").save(path), ["black and white only"]),
        ("a.png", lambda path: Image.fromarray(np.full((40, 60), 9999, np.uint16)).save(path), ["16-bit values"]),
        ("a.png", lambda path: NOISE.convert("RGBA").save(path), ["transparency"]),
        ("a.jpg", lambda path: NOISE.save(path, exif=rotated_exif()), ["rotated by EXIF"]),
        ("a.png", lambda path: NOISE.resize((30, 10)).save(path), ["shorter side below 24 px"]),
        ("a.png", lambda path: NOISE.resize((30, 150)).save(path), ["aspect ratio above 4"]),
        (
            "a.gif",
            lambda path: NOISE.save(path, save_all=True, append_images=[NOISE.rotate(90)]),
            ["animation: only the first frame is used"],
        ),
    ],
)
def test_image_issues_from_header(tmp_path, name, save, found):
    save(tmp_path / name)
    assert image_issues(tmp_path / name) == found


def test_has_one_colour_ignores_sensor_noise():
    pixels = np.stack([np.full((40, 40, 3), 200, np.uint8), np.asarray(NOISE)[:, :40]])
    pixels[0] += np.random.default_rng(0).integers(0, 3, (40, 40, 3), dtype=np.uint8)  # sensor noise
    assert has_one_colour(pixels).tolist() == [True, False]
