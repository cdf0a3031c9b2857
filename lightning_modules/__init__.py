"""Networks, objectives, optimisation, metrics and checkpoints."""

from litesort.errors import ModelError
from litesort.lazy import attach

__all__ = ["ModelError"]


__getattr__, __dir__ = attach(
    __name__,
    {
        "ImageClassifier": "classifier",
        "LinearProbe": "linear_probe",
        "configure_optimizer": "optim",
    },
)
