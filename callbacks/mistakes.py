"""A run's most confident mistakes as pictures, and where its network looked: mistakes.json, which the page shows."""

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from lightning_modules.saliency import where_it_looked
from reports.files import write_json

SIDE = 128  # pixels of a picture
MAP_SIDE = 24  # pixels of a heat map, which is smooth


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
    net: nn.Module | None = None,
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
        net: (B, 3, S, S) in [0, 1] -> (B, C) logits; None (an exported file): no maps.
        count: Largest number of mistakes; 0: nothing is written.

    Returns:
        The file's path, or None.
    """
    if count < 1:
        return None
    rows, answers = most_confident(probabilities, targets, count), probabilities.argmax(1)
    maps: Sequence[np.ndarray | None] = [None] * len(rows)
    if net is not None and rows:
        maps = _maps(net, np.stack([photo(row, size) for row in rows]), answers[rows])
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


def _maps(net: nn.Module, photos: np.ndarray, answers: np.ndarray) -> list[np.ndarray | None]:
    """Heat maps (MAP_SIDE, MAP_SIDE, 3) uint8 in colours of evenly rising brightness; None each where there is none."""
    from matplotlib import colormaps

    device = next(net.parameters()).device
    images = torch.from_numpy(photos).permute(0, 3, 1, 2).float().div_(255).to(device)
    try:
        found = where_it_looked(net, images, torch.from_numpy(answers).to(device))
    except (RuntimeError, ValueError, AssertionError) as error:  # a picture less must not cost a training its result
        print(f"no heat maps of mistakes: {' '.join(str(error).split())[:200]}")
        return [None] * len(photos)
    side = (MAP_SIDE, MAP_SIDE)
    smooth = torch.nn.functional.interpolate(found[:, None], side, mode="bicubic", align_corners=False).clamp(0, 1)
    return [(colormaps["inferno"](heat.numpy())[..., :3] * 255).astype(np.uint8) for heat in smooth[:, 0]]
