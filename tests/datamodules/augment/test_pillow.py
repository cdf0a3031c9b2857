"""Each operation gives the pixels of Pillow's operation."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from policies import drawn_operations, policy
from torch.utils._python_dispatch import TorchDispatchMode

from datamodules.augment.contact_sheet import example_images
from datamodules.augment.ops import OPERATIONS
from datamodules.augment.pipeline import Augment
from datamodules.augment.tables import autocontrast_tables, equalize_tables, histograms, mean_luma, table_places

SIZE = 48
PIXELS = example_images(12, SIZE, seed=3)
KEYS = np.arange(12, dtype=np.uint64)
LEVELS = [0, 1, 7, 14, 22.5, 30]


def augmented(augment: Augment, batch: np.ndarray = PIXELS, keys: np.ndarray = KEYS) -> np.ndarray:
    images = torch.from_numpy(batch).permute(0, 3, 1, 2)
    return augment(images, augment.draw(keys, SIZE)).mul(255).round().byte().permute(0, 2, 3, 1).numpy()


def drawn(augment: Augment, keys: np.ndarray = KEYS) -> list[list[tuple[str, float]]]:
    return drawn_operations(augment, keys)


def exact(image: Image.Image, name: str, amount: float) -> Image.Image:
    if name in ("AutoContrast", "Equalize"):
        return {"AutoContrast": ImageOps.autocontrast, "Equalize": ImageOps.equalize}[name](image)
    if name == "Solarize":
        return ImageOps.solarize(image, amount)
    if name == "Posterize":
        return ImageOps.posterize(image, int(amount))
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        return getattr(ImageEnhance, name)(image).enhance(amount)
    assert name == "Identity"
    return image


def geometric(image: Image.Image, name: str, amount: float, fill: int = 128) -> Image.Image:
    if name == "Rotate":
        return image.rotate(-amount, Image.Resampling.BILINEAR, fillcolor=(fill,) * 3)
    shift = amount * image.width
    data = {
        "ShearX": (1, amount, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, amount, 1, 0),
        "TranslateX": (1, 0, shift, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, shift),
    }[name]
    return image.transform(image.size, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR, fillcolor=(fill,) * 3)


GEOMETRY = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


def pillow(pixels: np.ndarray, steps: list[tuple[str, float]]) -> np.ndarray:
    image = Image.fromarray(pixels)
    for name, amount in steps:
        image = geometric(image, name, amount) if name in GEOMETRY else exact(image, name, amount)
    return np.asarray(image)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in GEOMETRY])
def test_value_operations_equal_pillow_bit_for_bit(name: str, level: float) -> None:
    augment = policy([name], num_ops=1, magnitude=level)
    for pixels, out, steps in zip(PIXELS, augmented(augment), drawn(augment), strict=True):
        np.testing.assert_array_equal(out, pillow(pixels, steps))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_equals_pillow_within_one_level(name: str, level: float) -> None:
    """Pillow truncates interpolated values, litesort rounds: 1 level apart. A few pixels at edges may differ more."""
    augment = policy([name], num_ops=1, magnitude=level)
    for pixels, out, steps in zip(PIXELS, augmented(augment), drawn(augment), strict=True):
        difference = np.abs(out.astype(int) - pillow(pixels, steps)).max(axis=2)
        assert (difference > 1).mean() < 1e-3
        assert (out != pixels).any() == (level > 0)


def test_every_pair_of_value_operations_equals_pillow_in_the_drawn_order() -> None:
    names = [name for name in OPERATIONS if name not in GEOMETRY]
    augment = policy(names, num_ops=3, magnitude=14)
    keys = np.arange(600, dtype=np.uint64)
    batch = np.resize(PIXELS, (600, SIZE, SIZE, 3))
    steps = drawn(augment, keys)
    assert len({(a[0], b[0]) for a, b, _ in steps}) == 81
    for pixels, out, operations in zip(batch, augmented(augment, batch, keys), steps, strict=True):
        np.testing.assert_array_equal(out, pillow(pixels, operations))


def test_geometry_and_values_keep_their_order() -> None:
    """A warp and a value operation do not commute: after the warp, the operation also changes the filled pixels."""
    augment = policy(["Rotate", "Solarize", "Sharpness", "TranslateX"], num_ops=2, magnitude=20)
    keys = np.arange(80, dtype=np.uint64)
    batch = np.resize(PIXELS, (80, SIZE, SIZE, 3))
    for pixels, out, steps in zip(batch, augmented(augment, batch, keys), drawn(augment, keys), strict=True):
        names = {name for name, _ in steps}
        if names <= {"Rotate", "TranslateX"}:
            continue  # one warp: pixels that the first operation moves outside may return
        difference = np.abs(out.astype(int) - pillow(pixels, steps)).max(axis=2)
        # a threshold or sharpening amplifies a difference of one level
        assert (difference > 3).mean() < 0.02
        if len(names) == 2:
            assert (np.abs(out.astype(int) - pillow(pixels, steps[::-1])) > 3).mean() > 0.02


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((SIZE, SIZE, 3), 77, np.uint8),
        np.repeat(PIXELS[0][..., :1], 3, axis=2),
        np.where(PIXELS[0] > 100, 255, 0).astype(np.uint8),
    ],
    ids=["one value", "grey", "two values"],
)
def test_plain_images_equal_pillow(pixels: np.ndarray) -> None:
    augment = policy([name for name in OPERATIONS if name not in GEOMETRY], num_ops=2, magnitude=14)
    keys = np.arange(150, dtype=np.uint64)
    batch = np.repeat(pixels[None], 150, axis=0)
    for out, steps in zip(augmented(augment, batch, keys), drawn(augment, keys), strict=True):
        np.testing.assert_array_equal(out, pillow(pixels, steps))


def test_neighbouring_geometry_is_one_warp() -> None:
    """A shift and its inverse restore the image, apart from interpolation."""
    augment = policy(["TranslateX"], num_ops=2, magnitude=30, translate=0.25)
    seen = False
    for pixels, out, steps in zip(PIXELS, augmented(augment), drawn(augment), strict=True):
        if abs(steps[0][1] + steps[1][1]) < 1e-9:
            np.testing.assert_array_equal(out, pixels)
            seen = True
    assert seen


class NoFloat64(TorchDispatchMode):
    """Raise for float64, as MPS does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            assert not (isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64), func
        return out


def test_tables_need_no_float64_on_the_device() -> None:
    pixels = torch.randint(30, 200, (4, 16, 16, 3), dtype=torch.uint8)
    places = table_places(4, 16, pixels.device)
    counts = histograms(pixels, places)
    largest = torch.full((4, 3, 1), 255)
    autocontrast_tables(counts.cumsum(2), largest)  # computes the tables of the host, in float64
    with NoFloat64():
        counts = histograms(pixels, places)
        cumulative = counts.cumsum(2)
        autocontrast_tables(cumulative, largest)
        equalize_tables(counts, cumulative, largest)
        mean_luma(pixels)
