"""Crop, flips, erasing and their matrices, compared with Pillow, torchvision and kornia."""

import kornia.geometry.transform as kornia
import numpy as np
import pytest
import torch
from PIL import Image
from policies import policy
from torchvision.transforms.v2 import functional as vision

from datamodules.augment.contact_sheet import example_images
from datamodules.augment.geometry import apply_warp, grid_lines
from datamodules.augment.ops import OPERATIONS
from datamodules.augment.pipeline import entry_keys
from litesort.keyed_random import boxes, splitmix64, uniforms

SIZE = 40
PIXELS = example_images(8, SIZE, seed=7)
IMAGES = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
KEYS = splitmix64(np.arange(8, dtype=np.uint64))


def augmented(keys: np.ndarray = KEYS, **settings: object) -> np.ndarray:
    augment = policy(**{"num_ops": 0} | settings)
    return augment(IMAGES, augment.draw(keys, SIZE)).mul(255).round().byte().permute(0, 2, 3, 1).numpy()


def warped(name: str, amount: float, fill: int = 128) -> torch.Tensor:
    numbers = np.zeros((8, 10))
    OPERATIONS[name].write(numbers, np.full(8, amount), 1.0)
    matrices = torch.from_numpy(numbers[:, :6].reshape(8, 2, 3)).float()
    pixels = torch.from_numpy(PIXELS.copy())
    apply_warp(pixels, *grid_lines(matrices, SIZE, SIZE), fill=torch.full((8,), float(fill)))
    return pixels.permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("which", "amount", "affine"),
    [
        ("Rotate", 33.0, {"angle": 33.0}),
        ("Rotate", -7.5, {"angle": -7.5}),
        ("ShearX", 0.3, {"shear": [float(np.degrees(np.arctan(0.3))), 0.0], "center": [0, 0]}),
        ("ShearY", -0.2, {"shear": [0.0, float(-np.degrees(np.arctan(0.2)))], "center": [0, 0]}),
        ("TranslateX", 0.25, {"translate": [-10, 0]}),
        ("TranslateY", -0.25, {"translate": [0, 10]}),
    ],
)
def test_warp_equals_torchvision(which: str, amount: float, affine: dict) -> None:
    settings = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], "center": None} | affine
    expected = vision.affine(IMAGES, interpolation=vision.InterpolationMode.BILINEAR, fill=[128.0] * 3, **settings)
    inside = vision.affine(
        torch.ones_like(IMAGES), interpolation=vision.InterpolationMode.NEAREST, fill=[0.0] * 3, **settings
    )
    difference = (warped(which, amount).int() - expected.int()).abs().amax(1)
    # torchvision blends the outermost half pixel with the fill
    core = torch.nn.functional.avg_pool2d(inside[:, 0].float(), 3, 1, 1) > 0.99
    assert core.float().mean() > 0.3
    assert difference[core].max() <= 1
    shell = torch.nn.functional.max_pool2d(inside[:, 0].float(), 3, 1, 1) > 0
    assert difference[~shell].sum() == 0


def test_warp_equals_kornia_within_rounding() -> None:
    center = torch.full((8, 2), (SIZE - 1) / 2)
    matrix = kornia.get_rotation_matrix2d(center, torch.full((8,), -20.0), torch.ones(8, 2))
    expected = kornia.warp_affine(IMAGES.float(), matrix, (SIZE, SIZE), padding_mode="border", align_corners=False)
    core = (slice(None), slice(None), slice(12, 28), slice(12, 28))
    assert (warped("Rotate", 20.0)[core].float() - expected[core]).abs().max() <= 0.51


@pytest.mark.parametrize("which", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"])
def test_warp_identity_is_exact(which: str) -> None:
    assert torch.equal(warped(which, 0.0), IMAGES)


@pytest.mark.parametrize("which", ["TranslateX", "TranslateY"])
@pytest.mark.parametrize("pixels", [1, 13, -39])
def test_whole_pixels_move_exactly(which: str, pixels: int) -> None:
    axis = 3 if which == "TranslateX" else 2
    expected = torch.roll(IMAGES, -pixels, axis)
    outside = [slice(None)] * 4
    outside[axis] = slice(SIZE - pixels, None) if pixels > 0 else slice(0, -pixels)
    expected[tuple(outside)] = 7
    assert torch.equal(warped(which, pixels / SIZE, fill=7), expected)


def test_flips_are_exact_and_have_their_probability() -> None:
    np.testing.assert_array_equal(augmented(hflip=1.0), PIXELS[:, :, ::-1])
    np.testing.assert_array_equal(augmented(vflip=1.0), PIXELS[:, ::-1])
    np.testing.assert_array_equal(augmented(hflip=1.0, vflip=1.0), PIXELS[:, ::-1, ::-1])
    keys = splitmix64(np.arange(4000, dtype=np.uint64))
    (drawn,) = policy(num_ops=0, hflip=0.3, vflip=0.1).draw(keys, SIZE).steps
    assert [one.rows / 4000 for one in drawn.passes] == pytest.approx([0.3, 0.1], abs=0.03)


@pytest.mark.parametrize("flips", [{"hflip": 1.0}, {"vflip": 1.0}, {"hflip": 1.0, "vflip": 1.0}])
def test_flip_merged_into_a_warp_equals_a_flip_at_the_end(flips: dict) -> None:
    """A flip that is merged into the last warp takes effect after all operations."""
    settings = {"num_ops": 3, "magnitude": 20, "crop_p": 0.5}
    keys = splitmix64(np.arange(100, 108, dtype=np.uint64))
    axes = tuple([2] * ("hflip" in flips) + [1] * ("vflip" in flips))
    difference = np.flip(augmented(keys, **settings), axes).astype(int) - augmented(keys, **settings, **flips)
    # the warp rounds after the flip instead of before it: one level of difference, more at edges
    assert (np.abs(difference) > 1).mean() < 0.02


def test_crop_equals_pillow_inside() -> None:
    box = boxes(uniforms(entry_keys(KEYS, "crop"), 0, 4), (0.3, 0.8), (0.75, 4 / 3))
    for image, out, (left, top, width, height) in zip(
        PIXELS, augmented(crop_p=1.0, crop_scale=(0.3, 0.8)), box, strict=True
    ):
        edges = (left * SIZE, top * SIZE, (left + width) * SIZE, (top + height) * SIZE)
        expected = np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=edges))
        # Pillow's resize does not look beyond the box, a warp does
        assert np.abs(out.astype(int) - expected)[2:-2, 2:-2].max() <= 1


def test_crop_never_shows_fill() -> None:
    white = torch.full((64, 3, SIZE, SIZE), 255, dtype=torch.uint8)
    augment = policy(num_ops=0, crop_p=1.0, crop_scale=(0.05, 1.0), fill=0)
    assert augment(white, augment.draw(splitmix64(np.arange(64, dtype=np.uint64)), SIZE)).min() == 1


def test_boxes_have_area_and_ratio_in_their_ranges() -> None:
    numbers = uniforms(splitmix64(np.arange(5000, dtype=np.uint64)), 9, 4)
    left, top, width, height = boxes(numbers, (0.1, 0.3), (0.5, 2.0)).T
    area, ratio = width * height, width / height
    assert area.min() >= 0.1 - 1e-9
    assert area.max() <= 0.3 + 1e-9
    assert abs(area.mean() - 0.2) < 0.005
    assert ratio.min() >= 0.5 - 1e-9
    assert ratio.max() <= 2 + 1e-9
    assert abs(np.log(ratio).mean()) < 0.03
    for near, side in ((left, width), (top, height)):
        assert near.min() >= 0
        assert (near + side).max() <= 1 + 1e-9


@pytest.mark.parametrize("noise", [False, True])
def test_erasing_changes_one_box_only(noise: bool) -> None:
    out = augmented(erase_p=1.0, erase_scale=(0.1, 0.3), noise=noise, fill=3)
    for image, erased in zip(PIXELS, out, strict=True):
        rows, columns = np.nonzero((image != erased).any(axis=2))
        box = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
        assert 0.07 < erased[box].shape[0] * erased[box].shape[1] / SIZE**2 < 0.33
        if not noise:
            assert (erased[box] == 3).all()
        else:
            assert erased[box].std() > 60
            assert abs(erased[box].mean() - 127.5) < 15
            assert abs(np.corrcoef(erased[box][:-1].ravel(), erased[box][1:].ravel())[0, 1]) < 0.15


def test_noise_differs_between_samples_and_channels() -> None:
    out = augmented(erase_p=1.0, erase_scale=(1.0, 1.0), erase_ratio=(1.0, 1.0), noise=True)
    planes = out.transpose(0, 3, 1, 2).reshape(24, -1).astype(float)
    assert np.abs(np.corrcoef(planes) - np.eye(24)).max() < 0.15
    assert np.bincount(out.ravel(), minlength=256).min() > 0
