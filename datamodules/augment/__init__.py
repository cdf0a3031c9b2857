"""Augmentation of batches on the device, drawn per sample on the host."""

from litesort.lazy import attach

__getattr__, __dir__ = attach(
    __name__,
    {
        "Mixing": "mix",
        "Augment": "pipeline",
    },
)
