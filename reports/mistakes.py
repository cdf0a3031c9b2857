"""Wrong predictions of a run, the most confident first: their list, and mistakes.json with images and heat maps."""

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from litesort.io import write_json

SIDE = 128  # side of a stored image in pixels


class Mistake(NamedTuple):
    """One wrong prediction.

    Attributes:
        row: Position in the evaluated split.
        file: Name of the image.
        label: True class.
        prediction: Predicted class.
        confidence: Probability of the predicted class.
    """

    row: int
    file: str
    label: str
    prediction: str
    confidence: float


def worst_mistakes(
    probabilities: np.ndarray, targets: np.ndarray, classes: Sequence[str], files: Sequence[str], count: int
) -> list[Mistake]:
    """List at most `count` wrong predictions, the most confident first. Equal confidences keep their order.

    Args:
        probabilities: (N, C) float, rows sum to 1.
        targets: (N,) int, true classes.
        classes: (C,) names.
        files: (N,) names of the images.
        count: Largest number of mistakes, 0 or more.
    """
    predictions, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predictions != targets)
    rows = wrong[np.argsort(-confidence[wrong], kind="stable")][:count].tolist()
    return [
        Mistake(row, str(files[row]), classes[targets[row]], classes[predictions[row]], float(confidence[row]))
        for row in rows
    ]


def write_mistakes(
    folder: Path,
    probabilities: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    files: Sequence[str],
    image: Callable[[int, int], np.ndarray],
    size: int,
    heat_maps: Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray | None]] | None = None,
    count: int = 200,
    explained: int = 24,
) -> Path | None:
    """Write mistakes.json: file, label, prediction, confidence and image of each mistake, with heat maps for some.

    Image and heat map are square WebP images of the same region, stored as `data:` URLs. The heat map is brightest
    where the evidence for the predicted class is strongest.

    Args:
        folder: The run folder.
        probabilities: (N, C) float, rows sum to 1.
        targets: (N,) int, true classes.
        classes: (C,) names.
        files: (N,) names of the images.
        image: Row and side -> (side, side, 3) uint8, preprocessed as for the network. Called for mistakes only.
        size: Side of the network's input in pixels.
        heat_maps: Maps images (B, S, S, 3) uint8 and predictions (B,) int to a list of B heat maps, each
            (H, W, 3) uint8 or None. With None, no heat maps are stored.
        count: Largest number of mistakes. With 0, nothing is written.
        explained: Largest number of heat maps. The most confident mistakes get one.

    Returns:
        Path of the file, or None.
    """
    if count < 1:
        return None
    found = worst_mistakes(probabilities, targets, classes, files, count)
    maps: Sequence[np.ndarray | None] = [None] * len(found)
    if heat_maps is not None and found:
        rows = [mistake.row for mistake in found[:explained]]
        drawn = heat_maps(np.stack([image(row, size) for row in rows]), probabilities.argmax(1)[rows]) if rows else []
        maps = [*drawn, *maps[len(drawn) :]]
    entries = [
        {
            "file": mistake.file,
            "label": mistake.label,
            "prediction": mistake.prediction,
            "confidence": round(mistake.confidence, 4),
            "image": data_url(image(mistake.row, SIDE)),
            "map": None if heat_map is None else data_url(heat_map),
        }
        for mistake, heat_map in zip(found, maps, strict=True)
    ]
    return write_json(folder / "mistakes.json", {"format": 1, "mistakes": entries})


def data_url(image: np.ndarray) -> str:
    """Encode (H, W, 3) or (H, W) uint8 as the `data:` URL of a WebP image."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "WEBP", quality=70, method=4)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
