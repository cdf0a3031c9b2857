"""Augmentation of batches on the device with kornia. The host draws the random parameters."""

from litesort.lazy import attach

__getattr__, __dir__ = attach(
    __name__,
    {
        "Augment": "pipeline",
        "Mixing": "mix",
        "PixelAugmentation2D": "pixel_augmentation",
        "RandAugment": "randaugment",
        "RandomErasing": "erase",
        "RandomHorizontalFlip": "flip",
        "RandomResizedCrop": "crop",
        "RandomVerticalFlip": "flip",
        "TrivialAugment": "randaugment",
    },
)
