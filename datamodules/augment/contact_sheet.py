"""Contact sheets: every operation at every level, on a few photos, for the eye."""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from rich.progress import track

from datamodules.augment.pipeline import OPERATIONS, Augment
from litesort.errors import DataError

_LABEL = 14


def example_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Draw photo-like pictures, (count, size, size, 3) uint8: soft light, sharp shapes, grain, a narrow range."""
    random = np.random.default_rng(seed)
    photos = []
    for _ in range(count):
        light = Image.fromarray(random.integers(40, 200, (4, 4, 3), dtype=np.uint8)).resize(
            (size, size), Image.Resampling.BICUBIC
        )
        brush = ImageDraw.Draw(light)
        for _ in range(6):
            corner = random.uniform(0, 0.75, 2) * size
            box = [*corner, *(corner + random.uniform(0.1, 0.5, 2) * size)]
            colour = tuple(random.integers(20, 236, 3).tolist())
            (brush.ellipse if random.random() < 0.5 else brush.rectangle)(
                box, fill=colour, outline=(30, 30, 30), width=max(1, size // 60)
            )
        soft = np.asarray(light.filter(ImageFilter.GaussianBlur(size / 300)), dtype=np.float64)
        photos.append((soft + random.normal(0, 4, soft.shape)).clip(8, 245).astype(np.uint8))
    return np.stack(photos)


def contact_sheet(photos: np.ndarray, columns: dict[str, Augment]) -> Image.Image:
    """Lay out photos (N, S, S, 3) uint8: a row a photo, a column an augmentation with its title, the photo first."""
    size = photos.shape[1]
    images = torch.from_numpy(photos).permute(0, 3, 1, 2)
    pictures = [photos]
    for number, augment in enumerate(columns.values()):
        # one operation: the same sign in all columns; the whole policy: another draw in each
        keys = np.arange(len(photos), dtype=np.uint64) + np.uint64(augment.num_ops // 2 * 1000 * number)
        pictures.append(augment(images, augment.draw(keys)).mul(255).round().byte().permute(0, 2, 3, 1).numpy())
    body = np.concatenate([np.concatenate(list(column)) for column in pictures], axis=1)
    page = Image.new("RGB", (body.shape[1], body.shape[0] + _LABEL), "white")
    page.paste(Image.fromarray(body), (0, _LABEL))
    brush = ImageDraw.Draw(page)
    for column, text in enumerate(["photo", *columns]):
        brush.text((column * size + 2, 1), text, fill="black")
    return page


def read_photos(paths: list[Path], size: int) -> np.ndarray:
    """Read photos as squares, (N, size, size, 3) uint8."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"photo {missing[0]} does not exist: give image files, or none for drawn ones")
    return np.stack([np.asarray(ImageOps.fit(Image.open(path).convert("RGB"), (size, size))) for path in paths])


def main(arguments: list[str] | None = None) -> None:
    """Write one PNG an operation, and one of the whole policy."""
    parser = argparse.ArgumentParser(prog="python -m datamodules.augment", description=__doc__)
    parser.add_argument("photos", nargs="*", type=Path, help="photos to augment; drawn ones if none are given")
    parser.add_argument("--out", type=Path, default=Path("augment_sheets"), help="folder to write to")
    parser.add_argument("--size", type=int, default=96, help="side of a picture in pixels")
    parser.add_argument("--step", type=float, default=2, help="levels between two columns, 1 for every one of 0 to 30")
    options = parser.parse_args(arguments)
    photos = read_photos(options.photos, options.size) if options.photos else example_images(4, options.size)
    options.out.mkdir(parents=True, exist_ok=True)
    levels = np.arange(0, 30 + 1e-9, options.step).tolist()
    for name in track(OPERATIONS, "drawing"):
        columns = {f"{name} {level:g}": Augment([name], num_ops=1, magnitude=level, hflip=0.0) for level in levels}
        contact_sheet(photos, columns).save(options.out / f"{name}.png")
    contact_sheet(photos, {f"draw {number}": Augment(crop_p=0.5, erase_p=0.25) for number in range(12)}).save(
        options.out / "policy.png"
    )
    print(f"{len(OPERATIONS) + 1} sheets in {options.out}")
