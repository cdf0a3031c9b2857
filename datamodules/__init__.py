"""Data: image sources, splits, pixel cache, loaders and augmentation."""

from litesort.errors import DataError
from litesort.lazy import attach

__all__ = ["DataError"]


__getattr__, __dir__ = attach(
    __name__,
    {
        "ImageDataModule": "datamodule",
        "ShuffleSampler": "samplers",
        "WeightedSampler": "samplers",
        "OrderedSampler": "samplers",
    },
)
