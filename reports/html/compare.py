"""Data for the comparison of two runs, image by image, by the script of the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from litesort.io import csv_cell
from reports.run_folder import Predictions

MAX_PREDICTIONS = 1_000_000  # on one page; further runs are left out


def comparison(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the predictions of all runs. Runs with the same images share image names and labels.

    Args:
        runs: Runs in the order of the ranking, each with `id`, `name`, `predictions` (or None) and `mistakes`, whose
            `image` is a position in the images of the page.

    Returns:
        sets: `classes`, `files` and `labels` (int, positions in `classes`) of each set of images. pictures: name of an
        image -> its position in the images of the page. runs: each with `id`, `name`, `set`, `predictions` (int) and
        `confidence` (percent). second: position of the run that the first run is compared with by default, if possible
        one with the same images. left_out: number of runs that do not fit.
    """
    sets: dict[tuple[Any, ...], int] = {}
    found: list[dict[str, Any]] = []
    left, left_out = MAX_PREDICTIONS, 0
    for run in runs:
        predictions: Predictions | None = run["predictions"]
        if predictions is None:
            continue
        left -= len(predictions.files)
        if left < 0:
            left_out += 1
            continue
        key = (tuple(predictions.classes), tuple(predictions.files), tuple(predictions.targets.tolist()))
        found.append(
            {
                "id": run["id"],
                "name": run["name"],
                "set": sets.setdefault(key, len(sets)),
                "predictions": predictions.predictions.tolist(),
                "confidence": (100 * predictions.confidence).round().astype(int).tolist(),
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
