"""Where curves, images and results are logged: W&B, TensorBoard and MLflow."""

from litesort.lazy import attach

__getattr__, __dir__ = attach(
    __name__,
    {
        "Wandb": "wandb",
        "WandbMedia": "wandb_media",
    },
)
