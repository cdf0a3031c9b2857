"""Decode any image file to upright uint8 RGB pixels, and convert them to a square.

Cache, evaluation, parity checks and prediction all use `load`, so that the preprocessing is the same everywhere.
"""

import contextlib
import hashlib
import io
import os
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

from datamodules.images.resize import GREY, resize

try:  # optional: libjpeg-turbo as in Pillow, with equal pixels (tested), but faster and strict about damage
    import simplejpeg  # type: ignore[import-untyped,import-not-found,unused-ignore]
except ImportError:
    simplejpeg = None

# Pillow warns about metadata; errors become the reason of a BrokenImage
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

Box = tuple[int, int, int, int]  # left, top, right, bottom in px of the upright image

MAX_PIXELS = 100_000_000  # 300 MB decoded; larger images are treated as decompression bombs
MAX_BYTES = 1 << 30
_NOT_IMAGES = {"EPS", "WMF"}  # Pillow starts external programs to render these


class BrokenImage(Exception):
    """A file that cannot be read as an image. `reason` is one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def content_digest(path: str | Path, box: Box | None = None) -> bytes:
    """Return the first 16 bytes of the SHA-256 hash of a file's content and a box.

    Raises:
        OSError: The file cannot be read.
    """
    if not stat.S_ISREG((status := Path(path).stat()).st_mode) or status.st_size > MAX_BYTES:
        raise OSError(f"{path} is not an image file")  # reading a pipe or a device may never end
    digest = hashlib.sha256(Path(path).read_bytes())
    digest.update(repr(None if box is None else tuple(int(edge) for edge in box)).encode())
    return digest.digest()[:16]


def read_image(
    file: str | Path | bytes, *, box: Box | None = None, min_side: int | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decode an image of any format that Pillow reads to (H, W, 3) uint8 RGB, upright according to EXIF.

    Grey, palette, 1-bit and CMYK images become RGB. 16-bit values are scaled to 8 bits. Float values are scaled from
    [0, 1], kept in [0, 255], and otherwise stretched from their minimum and maximum. The first frame of an animation is
    read. Transparent areas become grey 128, like padding, since the colour of a transparent pixel is arbitrary.

    Args:
        file: Path, or content of a file.
        box: Part to keep, clipped to the image.
        min_side: Target size, px. A JPEG of at least four times this size is decoded at 1/2, 1/4 or 1/8 scale, but to
            at least twice `min_side`. This is several times faster. None decodes at full size.
        max_pixels: Images with more pixels (width * height) are rejected before decoding.

    Raises:
        BrokenImage: The file is missing, empty, truncated, damaged, too large, or not an image.
    """
    data = file if isinstance(file, bytes) else read_bytes(Path(file))
    try:
        image = _decode_jpeg(data, box, min_side, max_pixels) if simplejpeg and data[:2] == b"\xff\xd8" else None
        if image is None:
            image = _decode_pil(data, box, min_side, max_pixels)
    except BrokenImage:
        raise
    except Exception as error:  # Pillow raises many types of exceptions on damaged files
        raise BrokenImage(_one_line(error)) from error
    if not image.size:
        raise BrokenImage(f"contains no pixels (box {box})" if box else "contains no pixels")
    return image


def load(
    file: str | Path | bytes, size: int, policy: str, *, box: Box | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Read an image and convert it to a square, (size, size, 3) uint8, with the same pixels as the cache.

    The arguments are those of `read_image` and `resize`, which also define the errors.
    """
    return resize(read_image(file, box=box, min_side=size, max_pixels=max_pixels), size, policy)


def read_bytes(path: Path) -> bytes:
    """Return the content of an image file.

    Raises:
        BrokenImage: The file is missing, empty, too large, or not a regular file.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise BrokenImage(
                "is a folder" if os.access(path, os.R_OK | os.X_OK) else "is a folder that may not be read"
            )
        if not stat.S_ISREG(status.st_mode):  # opening a pipe may block forever
            raise BrokenImage("is not a regular file")
        if status.st_size > MAX_BYTES:
            raise BrokenImage(f"is {status.st_size} bytes long, more than the limit of {MAX_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise BrokenImage(f"cannot be read: {os.strerror(error.errno) if error.errno else error}") from error
    if not data:
        raise BrokenImage("is empty")
    return data


def _one_line(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "is not a known image format"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"is too large: {error}"
    # any other exception is a failure of the reader on damaged data
    known = isinstance(error, OSError | ValueError | SyntaxError | EOFError)
    problem = "cannot be decoded" if known else "is damaged"
    return " ".join(f"{problem} ({type(error).__name__}: {error})".split())[:200]


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BrokenImage(f"is too large: {width} x {height} pixels, more than the limit of {max_pixels}")


def _reduction(width: int, height: int, box: Box | None, min_side: int | None) -> int:
    """Return 8, 4, 2 or 1: the largest reduction that leaves both sides (of the box) at twice `min_side` or more."""
    if min_side is None:
        return 1
    short = min(width, height) if box is None else min(box[2] - box[0], box[3] - box[1])
    return next(s for s in (8, 4, 2, 1) if s == 1 or short // s >= 2 * min_side)


def _cut(image: np.ndarray, box: Box | None, reduction: int) -> np.ndarray:
    if box is None:
        return image
    left, top, right, bottom = (max(0, round(edge / reduction)) for edge in box)
    return np.ascontiguousarray(image[top:bottom, left:right])


def _decode_jpeg(data: bytes, box: Box | None, min_side: int | None, max_pixels: int) -> np.ndarray | None:
    """Decode a JPEG. Return None for unusual files (CMYK, lossless, arithmetic, stray bytes), which Pillow decodes."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except ValueError:
        return None
    _check_size(width, height, max_pixels)
    reduction = _reduction(width, height, box, min_side)
    least = {"min_height": -(-height // reduction), "min_width": -(-width // reduction)} if reduction > 1 else {}
    try:
        image = simplejpeg.decode_jpeg(data, "CMYK" if colours in ("CMYK", "YCCK") else "RGB", strict=True, **least)
    except ValueError as error:
        # Pillow fills missing parts with grey without an error. Stray bytes between segments are harmless.
        if any(word in str(error) for word in ("remature end", "Huffman", "instead of RST")):
            raise BrokenImage(f"is truncated or damaged: {error}") from error
        return None
    if image.shape[2] == 4:  # a complete CMYK image, which Pillow converts to RGB
        return None
    if _may_have_exif(data):
        image = _upright(image, data)
    return _cut(image, box, reduction)


def _may_have_exif(data: bytes) -> bool:
    """Search the segments before the pixels. A search through all bytes takes as long as a small resize."""
    offset = 2
    while data[offset : offset + 1] == b"\xff" and (marker := data[offset + 1 : offset + 2]) != b"\xda":
        if marker == b"\xe1" and data[offset + 4 : offset + 10] == b"Exif\0\0":
            return True
        offset += 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
    return data[offset : offset + 1] != b"\xff"  # unknown structure: let Pillow search for EXIF data


def _upright(image: np.ndarray, data: bytes) -> np.ndarray:
    orientation = None
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data), formats=["JPEG"]) as header:
        orientation = header.getexif().get(ExifTags.Base.Orientation)  # damaged EXIF is ignored
    image = image.transpose(1, 0, 2) if orientation in (5, 6, 7, 8) else image
    image = image[:, ::-1] if orientation in (2, 3, 6, 7) else image
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _decode_pil(data: bytes, box: Box | None, min_side: int | None, max_pixels: int) -> np.ndarray:
    Image.init()
    with Image.open(io.BytesIO(data), formats=[name for name in Image.ID if name not in _NOT_IMAGES]) as image:
        width, height = image.size
        _check_size(width, height, max_pixels)
        reduction = _reduction(width, height, box, min_side) if image.format in ("JPEG", "MPO") else 1
        if reduction > 1:
            image.draft(None, (width // reduction, height // reduction))
            reduction = reduction if image.size != (width, height) else 1
        image.load()
        return _cut(np.array(_to_rgb(_exif_upright(image))), box, reduction)


def _exif_upright(image: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # damaged EXIF is ignored
        return ImageOps.exif_transpose(image)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":  # I, I;16, I;16B, I;16L, F: Pillow's conversion clips at 255
        return Image.fromarray(_to_bytes(np.array(image))).convert("RGB")
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        return converted if converted is not None else image.convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or image.has_transparency_data:
        image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (GREY, GREY, GREY, 255)), image).convert("RGB")
    return image.convert("RGB")


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """Scale grey values, (H, W) uint16, int32 or float32, to (H, W) uint8."""
    wide = values.astype(np.float64)
    wide[~np.isfinite(wide)] = 0
    low, high = (wide.min(), wide.max()) if wide.size else (0.0, 0.0)
    if values.dtype.kind == "u" or (values.dtype.kind == "i" and low >= 0 and 255 < high <= 65535):
        wide *= 255 / 65535
    elif values.dtype.kind == "f" and low >= 0 and high <= 1:
        wide *= 255
    elif low < 0 or high > 255:
        wide = (wide - low) * (255 / max(high - low, 1e-9))
    return (wide + 0.5).astype(np.uint8)
