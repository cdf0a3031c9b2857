"""A run's most confident mistakes as pictures, and where its network looked: mistakes.json, which the page shows."""

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from litesort.io import write_json

SIDE = 128  # pixels of a picture


def most_confident(probabilities: np.ndarray, targets: np.ndarray, count: int) -> list[int]:
    """Rows (of (N, C) probabilities and (N,) classes) of at most `count` wrong answers, the surest first."""
    answers, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(answers != targets)
    return wrong[np.argsort(-confidence[wrong], kind="stable")][:count].tolist()


def write_mistakes(
    folder: Path,
    probabilities: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    files: Sequence[str],
    photo: Callable[[int, int], np.ndarray],
    size: int,
    heat_maps: Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray | None]] | None = None,
    count: int = 12,
) -> Path | None:
    """Write mistakes.json: file, label, prediction, confidence, photo and map of each, the surest mistake first.

    Photo and map are `data:` URLs of WebP pictures, of the same square; the map is darkest where the net looked least.

    Args:
        folder: The run folder.
        probabilities: (N, C) float, rows sum to 1.
        targets: (N,) int, true classes.
        classes: C names.
        files: N names of the photos.
        photo: Row and side -> (side, side, 3) uint8, cut and padded as the net sees it; called for mistakes only.
        size: Side of what the net sees, in pixels.
        heat_maps: (B, S, S, 3) uint8 images and (B,) predictions -> a map (H, W, 3) uint8 each, or None; None: no maps.
        count: Largest number of mistakes; 0: nothing is written.

    Returns:
        The file's path, or None.
    """
    if count < 1:
        return None
    rows, answers = most_confident(probabilities, targets, count), probabilities.argmax(1)
    maps: Sequence[np.ndarray | None] = [None] * len(rows)
    if heat_maps is not None and rows:
        maps = heat_maps(np.stack([photo(row, size) for row in rows]), answers[rows])
    found = [
        {
            "file": files[row], "label": classes[int(targets[row])], "prediction": classes[int(answers[row])],
            "confidence": round(float(probabilities[row].max()), 4), "photo": data_url(photo(row, SIDE)),
            "map": None if heat is None else data_url(heat),
        }
        for row, heat in zip(rows, maps, strict=True)
    ]  # fmt: skip
    return write_json(folder / "mistakes.json", {"format": 1, "mistakes": found})


def data_url(picture: np.ndarray) -> str:
    """`data:` URL of a WebP of (H, W, 3) or (H, W) uint8."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "WEBP", quality=70, method=4)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
