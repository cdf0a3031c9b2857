"""Data that the page's script compares two runs by, image by image."""

from collections.abc import Mapping, Sequence
from typing import Any

from litesort.io import csv_cell
from reports.run_folder import Predictions

ANSWERS = 1_000_000  # predictions on one page; the first runs are kept


def comparison(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Predictions of all runs; runs that were evaluated on the same images share their names and labels.

    Args:
        runs: In the order of the ranking: `id`, `name`, `predictions` (or None) and `mistakes`, whose `image` is a
            position in the images of the page.

    Returns:
        sets: `classes`, `files`, `labels` (int, positions in `classes`) of each set of images. pictures: name of an
        image -> position. runs: `id`, `name`, `set`, `answers` (int) and `confidence` (percent) each.
        second: position of the run to compare the first with, one of the same images if there is one.
        left_out: runs without room.
    """
    sets: dict[tuple[Any, ...], int] = {}
    found: list[dict[str, Any]] = []
    left, left_out = ANSWERS, 0
    for run in runs:
        known: Predictions | None = run["predictions"]
        if known is None:
            continue
        left -= len(known.files)
        if left < 0:
            left_out += 1
            continue
        key = (tuple(known.classes), tuple(known.files), tuple(known.targets.tolist()))
        found.append(
            {
                "id": run["id"],
                "name": run["name"],
                "set": sets.setdefault(key, len(sets)),
                "answers": known.predictions.tolist(),
                "confidence": (100 * known.confidence).round().astype(int).tolist(),
            }
        )
    same = [i for i, run in enumerate(found[1:], start=1) if run["set"] == found[0]["set"]]
    pictures = {str(csv_cell(mistake["file"])): mistake["image"] for run in runs for mistake in run["mistakes"]}
    return {
        "sets": [{"classes": names, "files": files, "labels": labels} for names, files, labels in sets],
        "pictures": pictures,
        "runs": found,
        "second": same[0] if same else 1,
        "left_out": left_out,
    }
