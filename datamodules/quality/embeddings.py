"""Image features of a source: from a given frozen network, or colour and gradient histograms."""

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch.nn import functional as F

from datamodules.cache import open_pixels
from datamodules.datamodule import ImageDataModule
from datamodules.quality.duplicates import SIDE, small_images

BATCH = 16  # a larger batch does not fit into the caches of a CPU and is slower


class Embed(Protocol):
    """A frozen network: (B, size, size, 3) uint8 -> (B, D) float32.

    Attributes:
        name: Name in reports.
        size: Side of the images, px.
        resize: Conversion of an image to a square: "pad", "squash" or "crop".
    """

    name: str
    size: int
    resize: str

    def __call__(self, pixels: np.ndarray) -> np.ndarray: ...


class HistogramEmbedder:
    """Colour and gradient histograms, used if no pretrained weights are installed. They distinguish colours, not
    objects.
    """

    name, size, resize = "colour and gradient histograms", SIDE, "squash"  # the images of `duplicates`

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Return (B, 192) float32 for pixels (B, 64, 64, 3) uint8: colour histogram, and edges by position and
        direction.
        """
        images = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float()
        levels = (images / 64).long().clamp_(0, 3)
        colours = F.one_hot(levels[:, 0] * 16 + levels[:, 1] * 4 + levels[:, 2], 64).float().mean((1, 2)).sqrt()
        grey = images.mean(1)
        across, down = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2], grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
        strength = torch.hypot(across, down)
        direction = ((torch.atan2(down, across) / torch.pi + 1) * 4).long().clamp_(0, 7)
        edges = F.one_hot(direction, 8).permute(0, 3, 1, 2) * strength[:, None]
        cells = F.adaptive_avg_pool2d(edges, 4).flatten(1)
        return torch.cat([colours, (cells / (cells.sum(1, keepdim=True) + 1)).sqrt()], 1).numpy()


def features(data: ImageDataModule, embed: Embed, rows: np.ndarray, progress: bool = True) -> tuple[np.ndarray, Embed]:
    """Compute features (n, D) float32, standardised over the samples and of length 1.

    If the pixel cache for `embed` exceeds its budget, histograms are used. The memory holds one batch of images and the
    result.

    Args:
        data: Data module.
        embed: Embedder.
        rows: (n,) int64, readable samples. Broken images are excluded before standardisation; otherwise their grey
            dominates the mean, and all other images look similar.
        progress: Show a progress bar.

    Returns:
        The features, and the embedder that computed them.
    """
    if isinstance(embed, HistogramEmbedder):
        pixels = small_images(data.source, data.cache_config, progress).array
    else:
        config = replace(data.cache_config, cache="disk")
        opened = open_pixels(data.source, embed.size, embed.resize, config, progress=progress)
        if opened is None:
            return features(data, HistogramEmbedder(), rows, progress)
        pixels = opened.array
    starts = range(0, len(rows), BATCH)
    shown = track(starts, f"Computing features: {embed.name}", console=Console(stderr=True), disable=not progress)
    found = np.concatenate([embed(pixels[rows[start : start + BATCH]]) for start in shown])
    found -= found.mean(0)
    found /= found.std(0) + 1e-6
    found /= np.linalg.norm(found, axis=1, keepdims=True) + 1e-6
    return found, embed
