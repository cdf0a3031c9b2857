"""Any file content is decoded to pixels or raises an error that gives the reason."""

import contextlib
import os
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import encoded, smooth_image
from PIL import Image

from datamodules.images.decode import BrokenImage, load, read_image


def test_oversized_image_is_refused_before_decoding():
    for kind in ("PNG", "JPEG", "GIF"):
        with pytest.raises(BrokenImage, match="too large: 64 x 48"):
            read_image(encoded(smooth_image(), kind), max_pixels=64 * 48 - 1)
    assert read_image(encoded(smooth_image(), "JPEG"), max_pixels=64 * 48).shape == (48, 64, 3)


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 px that takes a hundred bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    header = (60000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9999))) + chunk(b"IEND", b"")
    )


def hostile() -> dict[str, bytes]:
    """Files that hold no complete image."""
    rng = np.random.default_rng(0)
    whole = {kind: encoded(smooth_image(), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")}
    whole["progressive"] = encoded(smooth_image(), "JPEG", progressive=True)
    files = {}
    for kind, data in whole.items():
        for part in (0.03, 0.3, 0.6, 0.9):
            files[f"{kind} cut at {part}"] = data[: int(len(data) * part)]
        files[f"{kind} zeroed"] = data[:12] + bytes(len(data) - 12)
        files[f"{kind} without its magic number"] = b"\0\0\0\0" + data[4:]
        files[f"{kind} filled with noise"] = data[:20] + rng.bytes(len(data) - 20)
    jpeg = whole["JPEG"]
    cmyk = encoded(Image.fromarray(smooth_image()).convert("CMYK"), "JPEG")
    restarts = encoded(smooth_image(), "JPEG", restart_marker_blocks=1)
    files |= {
        "JPEG cut short with an end marker": jpeg[: len(jpeg) * 2 // 3] + b"\xff\xd9",
        "CMYK JPEG cut short with an end marker": cmyk[: len(cmyk) * 2 // 3] + b"\xff\xd9",
        "JPEG with a wrong restart marker": restarts.replace(b"\xff\xd3", b"\xff\xd6", 1),
        "JPEG without its end marker": jpeg[: len(jpeg) - 40],
        "empty": b"",
        "one byte": b"\xff",
        "start of JPEG": b"\xff\xd8",
        "zeros": bytes(5000),
        "noise": rng.bytes(5000),
        "text": b"not an image\n" * 40,
        "html": b"<!doctype html><title>404</title>",
        "bomb": bomb(),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n",
        "zip": b"PK\3\4" + rng.bytes(500),
        "pdf": b"%PDF-1.4\n" + rng.bytes(300),
        "GIF without a size": b"GIF89a" + bytes(7) + b";",
    }
    return files


HOSTILE = hostile()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_raises_broken_image_with_a_one_line_reason(name, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(BrokenImage) as caught:
        load(path, 32, "pad")
    assert caught.value.reason
    assert "\n" not in caught.value.reason


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=20),
    st.floats(0.02, 1),
)
def test_any_bytes_give_pixels_or_a_reason(kind, changes, part):
    data = bytearray(encoded(smooth_image(), kind))
    for place, value in changes:
        data[int(place * len(data))] = value
    with contextlib.suppress(BrokenImage):
        assert load(bytes(data[: int(part * len(data))]), 16, "pad").shape == (16, 16, 3)


def test_jpeg_cut_anywhere_raises_broken_image():
    data = encoded(smooth_image(), "JPEG")
    for length in range(2, len(data) - 2, 7):
        with pytest.raises(BrokenImage):
            read_image(data[:length])


def test_special_files_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, reason in (("pipe.jpg", "regular"), ("missing.jpg", "No such file"), (".", "is a folder")):
        with pytest.raises(BrokenImage, match=reason):
            read_image(tmp_path / name)
