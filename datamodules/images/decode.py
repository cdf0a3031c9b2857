"""One photo file, whatever it is, to upright uint8 RGB pixels, and one way to bring them to a square.

The cache, evaluation, export parity checks and prediction all come through `load`, so that a network never meets pixels
that were prepared in another way than those it learned from.
"""

import contextlib
import hashlib
import io
import os
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from datamodules.images.resize import GREY, resize

try:  # an accelerator: libjpeg-turbo as in Pillow, so equal pixels (tested), fewer copies, and strict about damage
    import simplejpeg  # type: ignore[import-untyped,import-not-found,unused-ignore]
except ImportError:
    simplejpeg = None

# Pillow's remarks on a file's metadata: what matters of them is the reason of a BrokenImage
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

Box = tuple[int, int, int, int]  # left, top, right, bottom: pixels of the upright photo

MAX_PIXELS = 100_000_000  # a 100-megapixel photo is 300 MB decoded; what says it is larger is taken for a bomb
MAX_BYTES = 1 << 30
_NOT_PHOTOS = {"EPS", "WMF"}  # Pillow starts other programs to draw these
_ORIENTATION = 0x0112


class BrokenImage(Exception):
    """A file that cannot be read as a photo; `reason` is one line that says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def content_digest(path: str | Path, box: Box | None = None) -> bytes:
    """Return 16 bytes that change with the file's content and with the box; OSError where it cannot be read."""
    if not stat.S_ISREG((status := Path(path).stat()).st_mode) or status.st_size > MAX_BYTES:
        raise OSError(f"{path} is no photo")  # a pipe would be waited for, and a device has no end
    digest = hashlib.sha256(Path(path).read_bytes())
    digest.update(repr(None if box is None else tuple(int(edge) for edge in box)).encode())
    return digest.digest()[:16]


def read_image(
    file: str | Path | bytes, *, box: Box | None = None, min_side: int | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decode a photo, whatever PIL can open: (H, W, 3) uint8 RGB, turned upright as EXIF says.

    Grey, palette, 1-bit and CMYK become RGB; 16-bit values are scaled to 8 bits; floats are taken as [0, 1] or [0, 255]
    and stretched where they are neither; of an animation the first frame is read; what is transparent becomes grey 128,
    as the padding is: the colour that hides under full transparency is arbitrary and would teach the network nonsense.

    box: the part to keep; what reaches over the edge is cut off.
    min_side: the size the pixels will be brought to. A JPEG of at least four times that is decoded at 1/2, 1/4 or 1/8,
        never below twice `min_side`, several times faster. None decodes in full.
    max_pixels: more than these (width * height) are refused before they are decoded.

    Raises BrokenImage where the file is missing, empty, truncated, damaged, no image or too large.
    """
    data = file if isinstance(file, bytes) else read_bytes(Path(file))
    try:
        image = _decode_jpeg(data, box, min_side, max_pixels) if simplejpeg and data[:2] == b"\xff\xd8" else None
        if image is None:
            image = _decode_pil(data, box, min_side, max_pixels)
    except BrokenImage:
        raise
    except Exception as error:  # hostile bytes make Pillow's readers raise nearly anything
        raise BrokenImage(_one_line(error)) from error
    if not image.size:
        raise BrokenImage(f"holds no pixels (box {box})" if box else "holds no pixels")
    return image


def load(
    file: str | Path | bytes, size: int, policy: str, *, box: Box | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Read a photo and bring it to a square, (size, size, 3) uint8: the very pixels the cache would hold."""
    return resize(read_image(file, box=box, min_side=size, max_pixels=max_pixels), size, policy)


def read_bytes(path: Path) -> bytes:
    """Return the content of a photo file; BrokenImage where it is missing, empty, over-large or no regular file."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise BrokenImage(
                "is a folder" if os.access(path, os.R_OK | os.X_OK) else "is a folder that may not be read"
            )
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
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
        return "is no image that can be recognised"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"is over-large: {error}"
    # what no reader says of a file is the reader's own stumble over damage
    known = isinstance(error, OSError | ValueError | SyntaxError | EOFError)
    said = "cannot be decoded" if known else "is damaged, and its reader failed"
    return " ".join(f"{said} ({type(error).__name__}: {error})".split())[:200]


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BrokenImage(f"is over-large: {width} x {height} pixels, more than the limit of {max_pixels}")


def _reduction(width: int, height: int, box: Box | None, min_side: int | None) -> int:
    """Return 8, 4, 2 or 1: the largest whose reduction leaves both sides (of the box) at twice `min_side` or more."""
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
    """Decode a JPEG; None leaves an unusual one (CMYK, lossless, arithmetic, stray bytes) to Pillow."""
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
        # Pillow would show what is missing as grey and say nothing. Stray bytes between segments do no harm.
        if any(word in str(error) for word in ("remature end", "Huffman", "instead of RST")):
            raise BrokenImage(f"is truncated or damaged: {error}") from error
        return None
    if image.shape[2] == 4:  # whole; which inks mean what, Pillow knows
        return None
    if _may_have_exif(data):
        image = _upright(image, data)
    return _cut(image, box, reduction)


def _may_have_exif(data: bytes) -> bool:
    """Walk the segments before the pixels: a search through all bytes would cost as much as a small resize."""
    place = 2
    while data[place : place + 1] == b"\xff" and (marker := data[place + 1 : place + 2]) != b"\xda":
        if marker == b"\xe1" and data[place + 4 : place + 10] == b"Exif\0\0":
            return True
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return data[place : place + 1] != b"\xff"  # lost the thread: let Pillow look


def _upright(image: np.ndarray, data: bytes) -> np.ndarray:
    orientation = None
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data), formats=["JPEG"]) as header:
        orientation = header.getexif().get(_ORIENTATION)  # damaged EXIF is no EXIF
    image = image.transpose(1, 0, 2) if orientation in (5, 6, 7, 8) else image
    image = image[:, ::-1] if orientation in (2, 3, 6, 7) else image
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _decode_pil(data: bytes, box: Box | None, min_side: int | None, max_pixels: int) -> np.ndarray:
    Image.init()
    with Image.open(io.BytesIO(data), formats=[name for name in Image.ID if name not in _NOT_PHOTOS]) as image:
        width, height = image.size
        _check_size(width, height, max_pixels)
        reduction = _reduction(width, height, box, min_side) if image.format in ("JPEG", "MPO") else 1
        if reduction > 1:
            image.draft(None, (width // reduction, height // reduction))
            reduction = reduction if image.size != (width, height) else 1
        image.load()
        return _cut(np.array(_to_rgb(_exif_upright(image))), box, reduction)


def _exif_upright(image: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # damaged EXIF is no EXIF
        return ImageOps.exif_transpose(image)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":  # I, I;16, I;16B, I;16L, F: Pillow's own conversion clips them at 255
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
    """Scale grey levels of more than 8 bits, (H, W) uint16, int32 or float32, to (H, W) uint8."""
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
