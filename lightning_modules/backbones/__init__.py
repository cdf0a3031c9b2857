"""Backbones: timm networks, pretrained weights, embedders and Grad-CAM."""

from litesort.lazy import attach

__getattr__, __dir__ = attach(
    __name__,
    {
        "Backbone": "backbone",
        "create_backbone": "backbone",
        "default_embedder": "embedder",
    },
)
