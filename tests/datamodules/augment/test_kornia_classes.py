"""Every 2D augmentation of kornia in a pipeline, built from YAML."""

import inspect
import re

import kornia.augmentation as kornia
import numpy as np
import pytest
import torch
import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning_fabric.utilities import move_data_to_device
from omegaconf import OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from datamodules.augment.contact_sheet import example_images
from datamodules.augment.pipeline import Augment, runs_on_device
from litesort.cli.validate import check_values
from litesort.errors import DataError
from litesort.keyed_random import splitmix64

SIZE = 32
IMAGES = torch.from_numpy(example_images(4, SIZE)).permute(0, 3, 1, 2)
BASES = {
    kornia.AugmentationBase2D, kornia.RigidAffineAugmentationBase2D, kornia.GeometricAugmentationBase2D,
    kornia.IntensityAugmentationBase2D, kornia.MixAugmentationBaseV2,
}  # fmt: skip
CLASSES = {
    name: each
    for name in kornia.__all__
    if inspect.isclass(each := getattr(kornia, name))
    and issubclass(each, kornia.AugmentationBase2D | kornia.MixAugmentationBaseV2)
    and each.__module__.startswith("kornia.augmentation._2d")
    and each not in BASES
}
# arguments, as in YAML, of classes whose arguments have no default or whose defaults change the size
ARGUMENTS = yaml.safe_load("""
CenterCrop: {size: 32}
ColorJiggle: {brightness: 0.2, hue: [-0.1, 0.1]}
ColorJitter: {brightness: 0.2}
Denormalize: {mean: [0.3, 0.3, 0.3], std: [0.5, 0.5, 0.5]}
LongestMaxSize: {max_size: 32}
Normalize: {mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}
PadTo: {size: [32, 32]}
RandomAffine: {degrees: [-20, 20], translate: [0.1, 0.1], shear: [-5, 5]}
RandomBrightness: {brightness: [0.5, 1.5]}
RandomClahe: {clip_limit: [5.0, 40.0]}
RandomContrast: {contrast: [0.5, 1.5]}
RandomCrop: {size: [32, 32], padding: 4}
RandomCutMixV2: {use_correct_lambda: true}
RandomElasticTransform: {kernel_size: [5, 5], sigma: [4.0, 4.0]}
RandomFisheye:
  center_x: {_target_: torch.tensor, data: [-0.3, 0.3]}
  center_y: {_target_: torch.tensor, data: [-0.3, 0.3]}
  gamma: {_target_: torch.tensor, data: [0.9, 1.1]}
RandomGamma: {gamma: [0.5, 2.0]}
RandomGaussianBlur: {kernel_size: [3, 3], sigma: [0.1, 2.0]}
RandomHue: {hue: [-0.3, 0.3]}
RandomJPEG: {jpeg_quality: [20.0, 60.0]}
RandomMotionBlur: {kernel_size: [3, 5], angle: 35.0, direction: 0.5}
RandomRain: {drop_height: [5, 8], drop_width: [1, 3], number_of_drops: [20, 30]}
RandomResizedCrop: {size: [32, 32]}
RandomRotation: {degrees: 20.0}
RandomRotation90: {times: [-3, 3]}
RandomSaturation: {saturation: [0.5, 1.5]}
RandomShear: {shear: [-20.0, 20.0]}
RandomSnow: {snow_coefficient: [0.3, 0.8], brightness: [1.5, 3.0]}
RandomTranslate: {translate_x: [-0.2, 0.2]}
Resize: {size: [32, 32]}
SmallestMaxSize: {max_size: 32}
""")
# classes that a pipeline refuses, with a part of the message
REFUSED = {
    "Normalize": r"values from -\d.*network normalises",
    "PatchMix": "several images at once",
    "RandomCutMixV2": "several images at once",
    "RandomMixUpV2": "several images at once",
    "RandomMosaic": "several images at once",
    "RandomTransplantation": "several images at once",
}
MISSING = {"RandomDissolving"}  # downloads a diffusion model
USED = sorted(CLASSES.keys() - REFUSED.keys() - MISSING)
NOT_RANDOM = {  # with p=1
    "CenterCrop", "Denormalize", "LongestMaxSize", "PadTo", "RandomAutoContrast", "RandomBoxBlur", "RandomEqualize",
    "RandomGrayscale", "RandomHorizontalFlip", "RandomInvert", "RandomMedianBlur", "RandomVerticalFlip", "Resize",
    "SmallestMaxSize",
}  # fmt: skip
# classes that read parameters as Python values: these stay on the host
ON_HOST = {
    "ColorJiggle", "ColorJitter", "LongestMaxSize", "RandomCrop", "RandomGaussianBlur", "RandomJPEG", "RandomJigsaw",
    "RandomMotionBlur", "RandomRain", "RandomResizedCrop", "SmallestMaxSize",
}  # fmt: skip
# other classes that copy a constant to the device; the host waits for the copy
COPY_CONSTANTS = {"Denormalize", "RandomChannelDropout", "RandomClahe", "RandomFisheye", "RandomPlanckianJitter"}
NEVER_WAIT = sorted(set(USED) - ON_HOST - COPY_CONSTANTS)


def build(name: str) -> Augment:
    arguments = ARGUMENTS.get(name, {})
    always = (
        {}
        if name in ("Denormalize", "Normalize") or "p" not in inspect.signature(CLASSES[name]).parameters
        else {"p": 1.0}
    )
    config = {
        "_target_": "datamodules.augment.Augment",
        "_convert_": "all",
        "transforms": {"one": {"_target_": f"kornia.augmentation.{name}"} | arguments | always},
    }
    check_values(config, "augment.")
    augment: Augment = instantiate(OmegaConf.create(config))
    return augment


def keys(batch: int) -> np.ndarray:
    return splitmix64(np.arange(4, dtype=np.uint64) + np.uint64(4 * batch))


def run(augment: Augment, batch: int) -> torch.Tensor:
    return augment(IMAGES, augment.draw(keys(batch), SIZE))


def test_lists_cover_the_classes_of_kornia() -> None:
    assert len(CLASSES) == 62, "kornia has other classes: add them to the lists of this file"
    assert (REFUSED.keys() | MISSING | ARGUMENTS.keys() | NOT_RANDOM | ON_HOST) <= CLASSES.keys()


@pytest.mark.parametrize("name", USED)
def test_class_works_in_a_pipeline_and_is_reproducible(name: str) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    augment = build(name)
    augment.check(SIZE)
    first = run(augment, 0)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator, which dropout uses, does not advance
    assert first.shape == IMAGES.shape
    assert first.is_contiguous(memory_format=torch.channels_last)
    second = run(augment, 1)
    assert torch.equal(first, second) == (name in NOT_RANDOM)
    resumed = build(name)  # in another process, without the first batch
    assert torch.equal(run(resumed, 1), second)
    assert runs_on_device(augment.transforms["one"], IMAGES.shape) == (name not in ON_HOST)


class Copies(TorchDispatchMode):
    """Record copies from the host to the device; the host waits for each copy."""

    found = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        inputs, outputs = (
            {leaf.device.type for leaf in tree_leaves(each) if isinstance(leaf, torch.Tensor)} for each in (args, out)
        )
        self.found |= "cpu" in inputs and "meta" in outputs and not (kwargs or {}).get("non_blocking")
        return out


@pytest.mark.parametrize("name", sorted(set(USED) - ON_HOST))
def test_copy_constants_lists_the_classes_that_copy_to_the_device(name: str) -> None:
    augment = build(name)
    (params,) = move_data_to_device(augment.draw(keys(0), SIZE).steps, torch.device("meta"))
    images = torch.empty(4, 3, SIZE, SIZE, device="meta")
    with Copies() as copies:
        augment.transforms["one"](images, params=params)
    assert copies.found == (name in COPY_CONSTANTS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", NEVER_WAIT)
def test_class_does_not_wait_for_a_gpu(name: str) -> None:
    augment, images = build(name), IMAGES.cuda()
    draws = move_data_to_device(augment.draw(keys(0), SIZE), torch.device("cuda"))
    augment(images, draws)
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment(images, draws)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", REFUSED)
def test_refused_class_is_named(name: str) -> None:
    with pytest.raises((DataError, InstantiationException)) as caught:
        build(name).check(SIZE)
    message = str(caught.value.__cause__ if isinstance(caught.value, InstantiationException) else caught.value)
    assert re.match(rf"augment\.transforms\.one: {name} .*{REFUSED[name]}", message)
