"""Loggers: curves, images and results for W&B, TensorBoard and MLflow. The only package that imports wandb."""

from litesort.lazy import attach

__getattr__, __dir__ = attach(
    __name__,
    {
        "Wandb": "wandb",
        "WandbMedia": "wandb_media",
    },
)
