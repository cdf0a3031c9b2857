"""Contact sheets: show each operation at each level on a few images."""

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
    """Draw test images, (count, size, size, 3) uint8: soft light, sharp shapes, noise, low contrast."""
    random = np.random.default_rng(seed)
    images = []
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
        images.append((soft + random.normal(0, 4, soft.shape)).clip(8, 245).astype(np.uint8))
    return np.stack(images)


def contact_sheet(images: np.ndarray, columns: dict[str, Augment]) -> Image.Image:
    """Lay out images (N, S, S, 3) uint8: one row an image, one column an augmentation; the first column is the
    original.
    """
    size = images.shape[1]
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    pictures = [images]
    for number, augment in enumerate(columns.values()):
        # one operation: the same sign in all columns; several operations: other draws in each column
        keys = np.arange(len(images), dtype=np.uint64) + np.uint64(augment.num_ops // 2 * 1000 * number)
        pictures.append(augment(batch, augment.draw(keys)).mul(255).round().byte().permute(0, 2, 3, 1).numpy())
    body = np.concatenate([np.concatenate(list(column)) for column in pictures], axis=1)
    page = Image.new("RGB", (body.shape[1], body.shape[0] + _LABEL), "white")
    page.paste(Image.fromarray(body), (0, _LABEL))
    brush = ImageDraw.Draw(page)
    for column, text in enumerate(["image", *columns]):
        brush.text((column * size + 2, 1), text, fill="black")
    return page


def read_images(paths: list[Path], size: int) -> np.ndarray:
    """Read images as squares, (N, size, size, 3) uint8."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]} does not exist: give image files, or none for drawn images")
    return np.stack([np.asarray(ImageOps.fit(Image.open(path).convert("RGB"), (size, size))) for path in paths])


def main(arguments: list[str] | None = None) -> None:
    """Write one PNG for each operation, and one for a whole policy."""
    parser = argparse.ArgumentParser(prog="python -m datamodules.augment", description=__doc__)
    parser.add_argument("images", nargs="*", type=Path, help="images to augment (default: drawn images)")
    parser.add_argument("--out", type=Path, default=Path("augment_sheets"), help="folder to write to")
    parser.add_argument("--size", type=int, default=96, help="side of a picture in pixels")
    parser.add_argument(
        "--step", type=float, default=2, help="difference of levels between columns (levels are 0 to 30)"
    )
    options = parser.parse_args(arguments)
    images = read_images(options.images, options.size) if options.images else example_images(4, options.size)
    options.out.mkdir(parents=True, exist_ok=True)
    levels = np.arange(0, 30 + 1e-9, options.step).tolist()
    for name in track(OPERATIONS, "drawing"):
        columns = {f"{name} {level:g}": Augment([name], num_ops=1, magnitude=level, hflip=0.0) for level in levels}
        contact_sheet(images, columns).save(options.out / f"{name}.png")
    contact_sheet(images, {f"draw {number}": Augment(crop_p=0.5, erase_p=0.25) for number in range(12)}).save(
        options.out / "policy.png"
    )
    print(f"{len(OPERATIONS) + 1} sheets in {options.out}")
