"""Photos become batches on the device."""

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
