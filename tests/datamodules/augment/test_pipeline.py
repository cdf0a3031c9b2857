"""The pipeline: drawn parameters for keys and settings, and the augmented batch."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from configs import composed
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from kornia.augmentation import CenterCrop, RandomGaussianBlur, RandomMosaic
from lightning_fabric.utilities import move_data_to_device
from PIL import Image
from policies import drawn_operations, policy
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import v2

from datamodules.augment import tables
from datamodules.augment.contact_sheet import contact_sheets, example_images, save_sheets
from datamodules.augment.flip import RandomHorizontalFlip
from datamodules.augment.mix import Mixing
from datamodules.augment.ops import OPERATIONS
from datamodules.augment.pipeline import Augment
from datamodules.augment.randaugment import RandAugment
from litesort.errors import DataError
from litesort.keyed_random import splitmix64, uniforms

SIZE = 32
PIXELS = example_images(16, SIZE, seed=5)
IMAGES = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
KEYS = splitmix64(np.arange(16, dtype=np.uint64))
EVERYTHING = {
    "num_ops": 3,
    "magnitude_std": 4.0,
    "crop_p": 0.6,
    "hflip": 0.5,
    "vflip": 0.5,
    "erase_p": 0.6,
    "noise": True,
}


def augmented(augment: Augment, images: torch.Tensor = IMAGES, keys: np.ndarray = KEYS) -> torch.Tensor:
    return augment(images, augment.draw(keys, images.shape[-1]))


def test_augmented_sample_does_not_depend_on_its_batch() -> None:
    augment = policy(**EVERYTHING)
    whole = augmented(augment)
    order = np.random.default_rng(0).permutation(16)
    assert torch.equal(augmented(augment, IMAGES[order], KEYS[order]), whole[order])
    for row in range(16):
        assert torch.equal(augmented(augment, IMAGES[row : row + 1], KEYS[row : row + 1])[0], whole[row])


def test_keys_determine_the_result() -> None:
    augment = policy(**EVERYTHING)
    assert torch.equal(augmented(augment), augmented(policy(**EVERYTHING)))
    same_image = IMAGES[:1].expand(16, -1, -1, -1)
    assert len(augmented(augment, same_image).unique(dim=0)) == 16


def test_same_on_batch_draws_once_for_all_samples() -> None:
    augment = Augment({"ops": RandAugment(same_on_batch=True), "flip": RandomHorizontalFlip(same_on_batch=True)})
    batches = [augmented(augment, IMAGES[:1].expand(16, -1, -1, -1), KEYS + np.uint64(batch)) for batch in range(8)]
    assert all(len(batch.unique(dim=0)) == 1 for batch in batches)
    assert len(torch.stack(batches)[:, 0].unique(dim=0)) > 4


def test_result_does_not_depend_on_layout_autocast_and_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    augment = policy(**EVERYTHING)
    expected = augmented(augment)
    assert expected.dtype == torch.float32
    assert expected.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(augmented(augment, IMAGES.contiguous()), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augmented(augment), expected)
    monkeypatch.setattr("datamodules.augment.pixel_rows._CACHE", 1)
    assert torch.equal(augmented(augment), expected)


def test_input_images_do_not_change() -> None:
    before = IMAGES.clone()
    augmented(policy(**EVERYTHING))
    assert torch.equal(IMAGES, before)


def test_odd_sizes_and_grey_images_are_augmented() -> None:
    grey = np.repeat(example_images(16, 31)[..., :1], 3, axis=3)
    names = [name for name in OPERATIONS if name not in ("Color", "Identity")]
    out = augmented(policy(names, **EVERYTHING | {"noise": False}), torch.from_numpy(grey).permute(0, 3, 1, 2))
    assert torch.equal(out[:, 0], out[:, 1])
    assert torch.equal(out[:, 0], out[:, 2])


@given(
    ops=st.lists(st.sampled_from(list(OPERATIONS)), min_size=1, max_size=14),
    num_ops=st.integers(0, 4),
    magnitude=st.floats(0, 30),
    std=st.sampled_from([0.0, 3.0, float("inf")]),
    p=st.sampled_from([0.0, 0.5, 1.0]),
    size=st.integers(1, 24),
    batch=st.integers(1, 5),
    seed=st.integers(0, 2**63),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_setting_gives_valid_images(
    ops: list[str], num_ops: int, magnitude: float, std: float, p: float, size: int, batch: int, seed: int
) -> None:
    augment = policy(ops, num_ops, magnitude, std, crop_p=p, hflip=p, vflip=p, erase_p=p, noise=True)
    keys = splitmix64(np.arange(batch, dtype=np.uint64) + np.uint64(seed))
    images = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (batch, size, size, 3), dtype=np.uint8))
    out = augment(images.permute(0, 3, 1, 2), augment.draw(keys, size))
    assert out.shape == (batch, 3, size, size)
    assert out.dtype == torch.float32
    levels = out * 255
    assert torch.equal(levels.round() / 255, out)
    assert out.min() >= 0
    assert out.max() <= 1


def test_operations_are_drawn_evenly_and_independently() -> None:
    keys = splitmix64(np.arange(28_000, dtype=np.uint64))
    choices, _ = RandAugment().choose(keys)
    pairs = np.bincount(choices[:, 0] * 14 + choices[:, 1], minlength=196)
    # chi-square with 195 degrees of freedom: P(> 270) = 1 / 3,000
    assert ((pairs - 28_000 / 196) ** 2 / (28_000 / 196)).sum() < 270


def test_numbers_are_uniform_and_streams_independent() -> None:
    keys = np.arange(20_000, dtype=np.uint64)
    first, second = uniforms(keys, 1, 2), uniforms(keys, 2, 2)
    columns = np.concatenate([first, second], axis=1)
    assert columns.min() >= 0
    assert columns.max() < 1
    counts = np.stack([np.histogram(column, 20, (0, 1))[0] for column in columns.T])
    assert ((counts - 1000) ** 2 / 1000).sum(axis=1).max() < 50
    assert np.abs(np.corrcoef(columns.T) - np.eye(4)).max() < 0.03


def test_levels_follow_their_settings() -> None:
    keys = splitmix64(np.arange(4000, dtype=np.uint64))
    assert set(RandAugment(magnitude=14)._levels(keys).ravel()) == {14.0}
    noisy = RandAugment(magnitude=15, magnitude_std=2)._levels(keys)
    assert abs(noisy.mean() - 15) < 0.1
    assert abs(noisy.std() - 2) < 0.1
    uniform = RandAugment(magnitude=30, magnitude_std=float("inf"))._levels(keys)
    assert abs(uniform.mean() - 15) < 0.3
    assert uniform.min() < 0.1
    assert uniform.max() > 29.9


def test_adding_an_entry_does_not_change_other_draws() -> None:
    plain, cropped = policy(), policy(crop_p=1, erase_p=1)
    assert drawn_operations(plain, KEYS) == drawn_operations(cropped, KEYS)
    removed = Augment({"crop": None, **{name: plain.transforms[name] for name in ("erase", "ops")}})
    assert drawn_operations(removed, KEYS) == drawn_operations(plain, KEYS)


def test_draws_move_to_the_device_with_the_batch() -> None:
    draws = policy(**EVERYTHING, mixing=Mixing(mixup_alpha=1)).draw(KEYS, SIZE)
    moved = move_data_to_device({"draws": draws}, torch.device("meta"))["draws"]
    assert type(moved) is type(draws)
    assert moved.steps[0].passes == draws.steps[0].passes
    tensors = (moved.steps[0].rows, moved.steps[0].numbers, moved.mix.params["mixup_pairs"])
    assert {tensor.device.type for tensor in tensors} == {"meta"}


class _RaiseOnWait(TorchDispatchMode):
    """Raise for operations that wait for a GPU and for tensors that are created on the host."""

    waits = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal", "bincount")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        tensors = [each for each in args if isinstance(each, torch.Tensor)]
        assert name not in self.waits, f"{name} waits"
        assert all(each.device.type == "meta" for each in tensors), f"{name} of a host tensor"
        if name.startswith("index"):
            indices = [
                each
                for each in (args[1] if isinstance(args[1], (list, tuple)) else args)
                if isinstance(each, torch.Tensor)
            ]
            assert all(each.dtype != torch.bool for each in indices), "a mask as an index waits"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("noise", [False, True])
def test_augment_does_not_synchronise(noise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, operations that read a value fail. The dispatch mode detects other waits for a GPU."""
    # autocast is the only call that does not support the meta device
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    mixing = Mixing(mixup_alpha=float(noise), cutmix_alpha=float(not noise), mode="sample")
    augment = policy(**EVERYTHING | {"noise": noise}, mixing=mixing)
    keys = splitmix64(np.arange(64, dtype=np.uint64))
    draws = move_data_to_device(augment.draw(keys, SIZE), torch.device("meta"))
    assert {one.kind for one in draws.steps[0].passes} == {
        "tables", "warp", "color", "sharpness", "flip_width", "flip_height", "noise" if noise else "erase",
    }  # fmt: skip
    images = torch.empty((64, SIZE, SIZE, 3), dtype=torch.uint8, device="meta").permute(0, 3, 1, 2)
    targets = torch.zeros(64, dtype=torch.int64, device="meta")
    tables._stretches(images.device)  # computed once per process, on the host
    with _RaiseOnWait():
        out, soft = augment.mix(augment(images, draws), targets, 6, draws)
    assert out.shape == (64, 3, SIZE, SIZE)
    assert soft.shape == (64, 6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_augment_on_cuda_equals_cpu_without_synchronising() -> None:
    augment = policy(**EVERYTHING, mixing=Mixing(cutmix_alpha=1, mode="sample"))
    draws = augment.draw(KEYS, SIZE)
    images, cuda_draws = IMAGES.cuda(), move_data_to_device(draws, torch.device("cuda"))
    targets = torch.zeros(16, dtype=torch.int64, device="cuda")
    augment.mix(augment(images, cuda_draws), targets, 6, cuda_draws)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = augment(images, cuda_draws)
        augment.mix(out, targets, 6, cuda_draws)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert ((out.cpu() - augment(IMAGES, draws)).abs() > 1.5 / 255).float().mean() < 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ops": ["rotate"]}, "rotate.*Identity, AutoContrast, Equalize, Rotate"),
        ({"ops": []}, "num_ops=2"),
        ({"magnitude": 31}, "magnitude=31.*0 to 30"),
        ({"hflip": 1.5}, "p=1.5.*0 to 1"),
        ({"crop_scale": [1.0, 0.5]}, "scale"),
        ({"fill": 300}, "fill=300"),
    ],
)
def test_invalid_settings_raise_value_error(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy(**settings)


def test_float_or_oblong_images_raise_data_error() -> None:
    augment = policy()
    with pytest.raises(DataError, match="float32"):
        augmented(augment, IMAGES.float())
    with pytest.raises(DataError, match="32 x 16"):
        augmented(augment, IMAGES[..., :16])


class Fade(nn.Module):
    """A user's module that draws random numbers in `forward`."""

    def __init__(self, least: float = 0.2) -> None:
        super().__init__()
        self.register_buffer("least", torch.tensor(least))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * (self.least + (1 - self.least) * torch.rand(len(images), 1, 1, 1, device=images.device))


def test_modules_of_other_packages_are_reproducible() -> None:
    jitter = v2.ColorJitter(brightness=0.5, saturation=0.5)
    augment = Augment({"flip": RandomHorizontalFlip(), "fade": Fade(), "jitter": jitter, "ops": RandAugment()})
    augment.check(SIZE)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, other = augmented(augment), augmented(augment, keys=KEYS + np.uint64(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(augmented(augment), first)
    assert not torch.equal(first, other)
    alone = augmented(Augment({"fade": Fade()}))
    ratio = alone / (IMAGES / 255).clamp(min=0.01)
    assert ratio.amax((1, 2, 3)).unique().numel() == 16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augmented(augment), first)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            CenterCrop(16),
            r"one: CenterCrop returns \(2, 3, 16, 16\) for \(2, 3, 32, 32\): choose one that keeps the size",
        ),
        (nn.BatchNorm2d(3), r"one: BatchNorm2d returns values from -.*expected \[0, 1\]"),
        (nn.Conv2d(1, 3, 1), r"one: Conv2d fails on two images of 32 px: Given groups=1"),
        (RandomMosaic(), r"one: RandomMosaic needs several images at once"),
        ({"p": 0.5}, r"one is not a module: give it a _target_"),
        (RandAugment(ops=["Color", CenterCrop(16)]), r"one.ops: CenterCrop returns"),
        (Fade(float("nan")), r"one: Fade returns NaN or infinity"),
    ],
)
def test_check_names_an_invalid_entry(module: nn.Module, message: str) -> None:
    with pytest.raises(DataError, match=rf"^augment\.transforms\.{message}"):
        Augment({"one": module}).check(SIZE)


@pytest.mark.parametrize("name", ["none", "light", "randaugment", "trivial", "kornia"])
def test_augment_configs_build(name: str) -> None:
    config = composed("train", f"augment={name}", f"data.size={SIZE}")
    augment = instantiate(config.data.augment)
    augment.check(SIZE)
    assert list(getattr(augment.transforms.get("ops"), "ops", OPERATIONS)) == list(OPERATIONS)
    out = augmented(augment)
    unchanged = (out == IMAGES / 255).flatten(1).all(dim=1)
    assert unchanged.all() if name == "none" else not unchanged.all()
    assert not augment.mixing.on


def test_contact_sheets_show_the_pipeline_its_entries_and_operations(tmp_path: Path) -> None:
    blur = RandomGaussianBlur((3, 3), (1.0, 2.0), p=0.0)
    augment = Augment({"ops": RandAugment(ops=["Rotate", "Color"]), "blur": blur})
    paths = save_sheets(contact_sheets(augment, PIXELS[:2], draws=3, step=15), tmp_path / "sheets")
    assert [path.stem for path in paths] == ["pipeline", "ops", "ops-Rotate", "ops-Color", "blur"]
    assert blur.p == 0.0
    pages = {path.stem: np.asarray(Image.open(path)) for path in paths}
    assert pages["pipeline"].shape == pages["ops-Rotate"].shape == (2 * SIZE + 14, 4 * SIZE, 3)
    strip = pages["ops-Rotate"][-SIZE:]
    assert np.array_equal(strip[:, :SIZE], strip[:, SIZE : 2 * SIZE])  # level 0
    assert not np.array_equal(strip[:, :SIZE], strip[:, 2 * SIZE : 3 * SIZE])
    assert not np.array_equal(pages["blur"][-SIZE:, :SIZE], pages["blur"][-SIZE:, SIZE : 2 * SIZE])


def test_batch_memory_reuses_only_unreferenced_memory() -> None:
    augment = policy(num_ops=0)
    first = augmented(augment)
    where, kept = first.data_ptr(), first[3:]
    expected = kept.clone()
    del first
    second = augmented(augment, 255 - IMAGES)
    assert second.data_ptr() != where
    assert torch.equal(kept, expected)
    del kept
    assert augmented(augment).data_ptr() == where
