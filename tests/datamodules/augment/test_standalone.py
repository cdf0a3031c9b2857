"""litesort's augmentations as kornia augmentations, without a pipeline of litesort."""

import kornia.augmentation as kornia
import numpy as np
import pytest
import torch
from PIL import Image

import datamodules.augment as litesort_augment
from datamodules.augment import (
    Augment,
    RandAugment,
    RandomErasing,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomVerticalFlip,
    TrivialAugment,
)
from datamodules.augment.contact_sheet import example_images
from litesort.keyed_random import splitmix64

SIZE = 40
IMAGES = torch.from_numpy(example_images(12, SIZE, seed=4)).permute(0, 3, 1, 2).contiguous()
KEYS = splitmix64(np.arange(12, dtype=np.uint64))
ALL = [
    RandAugment(),
    TrivialAugment(),
    RandomResizedCrop(),
    RandomHorizontalFlip(),
    RandomVerticalFlip(),
    RandomErasing(),
]
GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


@pytest.mark.parametrize("module", ALL, ids=lambda module: type(module).__name__)
def test_float_and_uint8_images_give_the_same_pixels(module: kornia.GeometricAugmentationBase2D) -> None:
    torch.manual_seed(0)
    pixels = module(IMAGES)
    assert pixels.dtype == torch.uint8
    assert not torch.equal(pixels, IMAGES)
    floats = module(IMAGES / 255, params=module._params)
    assert floats.dtype == torch.float32
    assert torch.equal((floats * 255).round().byte(), pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(IMAGES, params=module._params), pixels)
    assert not torch.equal(module(IMAGES), pixels)


@pytest.mark.parametrize("module", ALL, ids=lambda module: type(module).__name__)
def test_arguments_of_kornia_are_supported(module: kornia.GeometricAugmentationBase2D) -> None:
    again = eval(
        repr(module),
        vars(litesort_augment)
        | {name: getattr(litesort_augment, name) for name in dir(litesort_augment)}
        | {"inf": float("inf")},
    )
    assert repr(again) == repr(module)
    settings = module.settings()
    same = IMAGES[:1].expand(8, -1, -1, -1)
    torch.manual_seed(3)
    assert len(type(module)(**settings | {"p": 1.0}, same_on_batch=True)(same).unique(dim=0)) == 1
    never = type(module)(**settings | {"p": 0.0})
    assert torch.equal(never(IMAGES / 255), IMAGES / 255)
    assert torch.equal(never.transform_matrix, torch.eye(3).expand(12, 3, 3))
    assert type(module)(**settings, keepdim=True)(IMAGES[0]).shape == (3, SIZE, SIZE)
    assert type(module)(**settings)(IMAGES[0]).shape == (1, 3, SIZE, SIZE)


@pytest.mark.parametrize("name", GEOMETRIC)
@pytest.mark.parametrize("shape", [(40, 40), (30, 50)])
def test_boxes_masks_and_points_follow_the_image(name: str, shape: tuple[int, int]) -> None:
    height, width = shape
    torch.manual_seed(1)
    images = torch.zeros(6, 3, height, width)
    images[:, :, 12:18, 16:28] = 1.0
    boxes = torch.tensor([[[16.0, 12.0, 28.0, 18.0]]]).repeat(6, 1, 1)
    points = torch.tensor([[[21.5, 14.5]]]).repeat(6, 1, 1)
    sequence = kornia.AugmentationSequential(
        RandAugment(num_ops=2, magnitude=6, ops=[name], fill=0),
        kornia.RandomHorizontalFlip(p=0.5),
        data_keys=["input", "mask", "bbox_xyxy", "keypoints"],
    )
    out, mask, moved, ends = sequence(images, images[:, :1], boxes, points)
    assert sequence.transform_matrix.shape == (6, 3, 3)
    for row in range(6):
        lit = (out[row, 0] > 0.5).nonzero().float()
        (top, left), (bottom, right) = lit.amin(0), lit.amax(0) + 1
        assert torch.allclose(moved[row, 0], torch.stack([left, top, right, bottom]), atol=2.0)
        assert torch.allclose(ends[row, 0].flip(0), lit.mean(0), atol=0.6)
        assert ((mask[row, 0] > 0.5) != (out[row, 0] > 0.5)).float().mean() < 0.03
    replayed = sequence(images, images[:, :1], boxes, points, params=sequence._params)
    assert all(torch.equal(*pair) for pair in zip((out, mask, moved, ends), replayed, strict=True))


def test_crops_and_erased_boxes_reach_the_mask() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 3, SIZE, SIZE)
    sequence = kornia.AugmentationSequential(
        RandomErasing(p=1.0, fill=0), RandomResizedCrop(scale=(0.3, 0.5)), data_keys=["input", "mask"]
    )
    out, mask = sequence(images, torch.ones(4, 1, SIZE, SIZE))
    assert 0 < (mask == 0).float().mean() < 0.9
    assert (out.amax(1, keepdim=True)[mask == 0] < 0.5).float().mean() > 0.7


def test_rotation_of_oblong_images_equals_pillow() -> None:
    images = IMAGES[:, :, :24]
    module = RandAugment(num_ops=1, magnitude=30, ops=["Rotate"], same_on_batch=True)
    torch.manual_seed(0)
    out = module(images)
    sine = module.transform_matrix[0, 1, 0]  # 30 degrees in either direction
    for image, rotated in zip(images, out, strict=True):
        original = Image.fromarray(image.permute(1, 2, 0).numpy())
        expected = original.rotate(-float(torch.sign(sine)) * 30, Image.Resampling.BILINEAR, fillcolor=(128,) * 3)
        difference = np.abs(rotated.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected)).max(axis=2)
        assert (difference > 1).mean() < 0.02


def run_separately(augment: Augment, images: torch.Tensor) -> torch.Tensor:
    """Run each entry of a pipeline by itself, with uint8 pixels between entries."""
    for name, module in augment.transforms.items():
        one = Augment({name: module})
        images = (one(images, one.draw(KEYS, SIZE)) * 255).round().byte()
    return images


def test_fused_passes_equal_separate_entries() -> None:
    values = RandAugment(num_ops=3, ops=["Equalize", "Color", "Contrast", "Solarize", "Sharpness", "AutoContrast"])
    entries = {
        "flip": RandomHorizontalFlip(), "values": values, "erase": RandomErasing(fill="noise"),
        "up": RandomVerticalFlip(),
        "more": RandAugment(num_ops=2, ops=["Posterize", "Brightness", "AutoContrast", "Color"]),
    }  # fmt: skip
    exact = Augment(entries)
    fused = (exact(IMAGES, exact.draw(KEYS, SIZE)) * 255).round().byte()
    assert torch.equal(fused, run_separately(exact, IMAGES))  # bit-exact, since no entry is a warp
    # a crop and a small rotation become one warp, which resamples once instead of twice
    warps = Augment({"crop": RandomResizedCrop((0.6, 0.9)), "rotate": RandAugment(1, 5, ["Rotate"])})
    difference = (warps(IMAGES, warps.draw(KEYS, SIZE)) * 255 - run_separately(warps, IMAGES)).abs()
    inner = difference[:, :, 6:-6, 6:-6]
    assert inner.mean() < 3
    assert inner.quantile(0.99) < 40


def test_ops_may_contain_augmentations_of_kornia() -> None:
    ops = [kornia.RandomInvert(p=1.0), "Identity", kornia.RandomAffine(degrees=0.0, translate=(0.3, 0.3), p=1.0)]
    module = RandAugment(num_ops=1, ops=ops)
    torch.manual_seed(0)
    out = module(IMAGES)
    chosen = module._params["numbers"][:, 0, 0].masked_fill(module._params["kinds"][:, 0] == 0, -1)
    assert set(chosen.tolist()) == {-1.0, 0.0, 1.0}
    assert torch.equal(out[chosen == -1], IMAGES[chosen == -1])
    assert torch.equal(out[chosen == 0], 255 - IMAGES[chosen == 0])
    assert torch.equal(module(IMAGES, params=module._params), out)
    shifts = module.transform_matrix[chosen == 1][:, :2, 2]
    assert (shifts.abs() > 0.5).any()
    augment = Augment({"ops": module, "flip": RandomHorizontalFlip(p=1.0), "again": module})
    augment.check(SIZE)
    first = augment(IMAGES, augment.draw(KEYS, SIZE))
    assert torch.equal(augment(IMAGES, augment.draw(KEYS, SIZE)), first)
    assert not torch.equal(first, IMAGES / 255)
