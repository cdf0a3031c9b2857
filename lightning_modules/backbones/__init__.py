"""Networks, their pretrained weights and what they look at."""

from litesort.lazy import attach

__getattr__, __dir__ = attach(
    __name__,
    {
        "Backbone": "backbone",
        "create_backbone": "backbone",
        "default_embedder": "embedder",
    },
)
