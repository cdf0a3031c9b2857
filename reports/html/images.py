"""Images of a page. Each image is stored once, even if several runs show it. Their total size is limited."""

from collections.abc import Sequence
from typing import Any

IMAGE_BYTES = 6_000_000  # largest size of the base64 text of all images on one page


def pool_images(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Store the images of all runs once: the first mistake of every run, then the second of every run, and so on.

    Args:
        runs: Each has `mistakes`, a list of dicts with the `data:` URLs `image` and `map`. The runs are changed in
            place: mistakes beyond the limit are removed, `image` becomes a position in the result, and `all_mistakes`
            is the number of mistakes before the removal.

    Returns:
        The `data:` URLs of the images.
    """
    pool: dict[str, int] = {}
    stored: list[list[dict[str, Any]]] = [[] for _ in runs]
    left = IMAGE_BYTES
    for turn in range(max((len(run["mistakes"]) for run in runs), default=0)):
        for run, shown in zip(runs, stored, strict=True):
            if turn < len(run["mistakes"]):
                mistake = run["mistakes"][turn]
                left -= len(mistake["map"] or "") + (0 if mistake["image"] in pool else len(mistake["image"]))
                if left < 0:
                    break
                shown.append({**mistake, "image": pool.setdefault(mistake["image"], len(pool))})
        if left < 0:
            break
    for run, shown in zip(runs, stored, strict=True):
        run["all_mistakes"], run["mistakes"] = len(run["mistakes"]), shown
    return list(pool)
