"""Data report: summary numbers, terminal output, and CSV lists for `data.exclude` and `data.relabel`."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from litesort.io import write_text
from reports.summary import shown_path

SPLITS = ("train", "val", "test")
LABEL_ISSUE = ("predicted_label", "given_label", "given_probability", "predicted_probability")  # keys of an issue


def summarize(found: Mapping[str, Any]) -> dict[str, Any]:
    """Summarise a data report (see `datamodules.quality.report`): counts, quantiles, duplicates, leakage.

    Args:
        found: `classes`, `images` (one row per image) and `pairs` (duplicates).

    Returns:
        counts: class -> split -> number of images. imbalance: images of the largest class over the smallest;
        imbalance_of: split -> the same. looks: class -> median brightness and colour. quantiles: of width, height,
        aspect (width over height), bytes and brightness at 0, 5, 50, 95 and 100 %. image_issues: issue -> number of
        images. broken, equal, near: numbers of broken files, of pairs of equal files and of pairs of similar images.
        crossing, crossing_by_pixels: numbers of pairs in two splits. leaked: share of test images with a duplicate in
        training. disagreeing: number of pairs with two labels.
    """
    images, pairs = found["images"], found["pairs"]
    readable = [image for image in images if image["broken"] is None]
    counted = Counter((image["label"], image["split"]) for image in readable)
    counts = {name: {split: counted[name, split] for split in SPLITS} for name in found["classes"]}
    totals = [sum(of.values()) for of in counts.values()]
    sized = [image for image in readable if image["width"] and image["height"]]
    series = {key: [image[key] for image in sized] for key in ("width", "height", "bytes", "brightness")}
    series["aspect"] = [image["width"] / image["height"] for image in sized]
    duplicates = [(images[pair["rows"][0]], images[pair["rows"][1]]) for pair in pairs]
    leaked = {
        p["path"] for a, b in duplicates for p, q in ((a, b), (b, a)) if (p["split"], q["split"]) == ("test", "train")
    }
    # an unused image is in no split
    crossing = [a["split"] != b["split"] and None not in (a["split"], b["split"]) for a, b in duplicates]
    tested = sum(image["split"] == "test" for image in readable)
    return {
        "counts": counts,
        "imbalance": max(totals) / max(1, min(totals)),
        "imbalance_of": {split: _ratio([of[split] for of in counts.values()]) for split in SPLITS},
        "looks": {name: _look(readable, name) for name in found["classes"]},
        "image_issues": dict(Counter(issue for image in readable for issue in image["issues"]).most_common()),
        "quantiles": {key: _quantiles(values) for key, values in series.items()},
        "broken": len(images) - len(readable),
        "equal": sum(pair["equal"] for pair in pairs),
        "near": sum(not pair["equal"] for pair in pairs),
        "crossing": sum(crossing),
        "crossing_by_pixels": sum(
            crosses and pair["by"] == "pixels" for pair, crosses in zip(pairs, crossing, strict=True)
        ),
        "disagreeing": sum(a["label"] != b["label"] for a, b in duplicates),
        "leaked": len(leaked) / tested if tested else 0.0,
    }


def _ratio(counts: Sequence[int]) -> float | None:
    """Return the largest count divided by the smallest; None if a class has no image."""
    return max(counts) / min(counts) if min(counts) else None


def _look(images: Sequence[Mapping[str, Any]], label: str) -> dict[str, float | None]:
    """Return median brightness and colour of a class in grey levels; None if the class has no image."""
    own = [image for image in images if image["label"] == label]
    return {key: median(image[key] for image in own) if own else None for key in ("brightness", "colour")}


def _quantiles(values: Sequence[float]) -> list[float]:
    return np.round(np.percentile(values, [0, 5, 50, 95, 100]), 3).tolist() if len(values) else []


def write_lists(folder: Path, found: Mapping[str, Any]) -> list[Path]:
    """Write CSV lists of problems, and return their paths.

    - exclude.csv (path, reason): broken files and repeated copies, for `data.exclude=FILE`.
    - duplicates.csv: all pairs of equal or similar images.
    - relabel.csv (path, label): likely wrong labels, most likely first, for `data.relabel=FILE` after a review.
    - outliers.csv (path, label, distance): largest distance first.
    - image_issues.csv (path, label, issues): unusual files.
    """
    images = found["images"]
    out = {image["path"]: image["broken"] for image in images if image["broken"] is not None}
    for pair in found["pairs"]:
        if pair["equal"]:
            first, second = (images[row]["path"] for row in pair["rows"])
            out.setdefault(second, f"equal to {first}")
    rows = [
        (
            images[a]["path"],
            images[b]["path"],
            pair["similarity"],
            pair["equal"],
            images[a]["split"],
            images[b]["split"],
        )
        for pair in found["pairs"]
        for a, b in [pair["rows"]]
    ]
    issues = [(images[one["row"]]["path"], *(one[key] for key in LABEL_ISSUE)) for one in found.get("label_issues", [])]
    far = [
        (images[one["row"]]["path"], images[one["row"]]["label"], one["distance"]) for one in found.get("outliers", [])
    ]
    unusual = [(image["path"], image["label"], "; ".join(image["issues"])) for image in images if image["issues"]]
    header = ("path", "other", "similarity", "equal", "split", "other_split")
    return [
        _write(folder / "exclude.csv", [("path", "reason"), *out.items()]),
        _write(folder / "duplicates.csv", [header, *rows]),
        _write(folder / "relabel.csv", [("path", "label", *LABEL_ISSUE[1:]), *issues]),
        _write(folder / "outliers.csv", [("path", "label", "distance"), *far]),
        _write(folder / "image_issues.csv", [("path", "label", "issues"), *unusual]),
    ]


def _write(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    """Write plain CSV. Unlike `litesort.io.write_csv` it adds no apostrophes, because training reads the paths back."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return write_text(path, text.getvalue().encode("utf-8", "backslashreplace").decode())


def print_overview(results: Mapping[str, Any], files: Sequence[Path] = (), console: Console | None = None) -> None:
    """Print images per class and split, sizes and problems, then the written files."""
    console = console or Console()
    table = Table("class", *SPLITS, "all", box=None)
    for name, of in results["counts"].items():
        table.add_row(Text(name), *(f"{of[split]:,}" for split in SPLITS), f"{sum(of.values()):,}")
    console.print(Text(f"\n{results['data']}: {len(results['images']):,} images", style="bold"))
    console.print(table)
    for one in findings(results):
        console.print(Text(f"{one.title}: {one.text}", style="red" if one.alarming else ""))
    for file in files:
        console.print(Text(f"  {shown_path(file)}"), soft_wrap=True)


class Finding(NamedTuple):
    """One line of the summary.

    Attributes:
        title: Name of the check.
        text: Result of the check.
        alarming: Whether it is a problem.
        section: Section of the page with details; "" without one.
    """

    title: str
    text: str
    alarming: bool = False
    section: str = ""


def findings(results: Mapping[str, Any]) -> list[Finding]:
    """Return the findings of a data report, one per line of its summary."""
    found = [Finding("largest class over smallest", f"{results['imbalance']:.1f}", results["imbalance"] > 10, "counts")]
    for key, unit in (("width", "px"), ("height", "px"), ("aspect", "")):
        if values := results["quantiles"][key]:
            middle = f"{values[2]:g} {unit}".rstrip()
            spread = f"median {middle}, 90 % of images from {values[1]:g} to {values[3]:g}"
            found.append(Finding(key, spread if values[0] < values[4] else f"{middle} in all images", section="sizes"))
    found.append(Finding("broken files", f"{results['broken']}", results["broken"] > 0, "broken"))
    if results["image_issues"]:
        unusual = ", ".join(f"{n:,} {what}" for what, n in results["image_issues"].items())
        found.append(Finding("unusual files", unusual, section="unusual"))
    pairs = f"{results['equal']} pairs of equal files, {results['near']} pairs of similar images"
    found.append(Finding("duplicates", pairs, section="duplicates"))
    if results["disagreeing"]:
        found.append(Finding("pairs with two labels", f"{results['disagreeing']}", True, "duplicates"))
    if results["crossing"]:
        leaked = f"{results['leaked']:.1%} of test images have a duplicate in training"
        hint = "data.group_by=duplicates keeps pairs with similar pixels in one split"
        if not results["crossing_by_pixels"]:  # grouping by pixels cannot keep them together
            hint = "their embeddings are similar, their pixels are not, so data.group_by=duplicates does not help"
        found.append(Finding("pairs in two splits", f"{results['crossing']}; {leaked}: {hint}", True, "duplicates"))
    return found + _label_issues_and_outliers(results)


def _label_issues_and_outliers(results: Mapping[str, Any]) -> list[Finding]:
    """Return findings about label issues, outliers and leakage; none without embeddings."""
    if "features" not in results:
        return []
    issues, far = len(results["label_issues"]), len(results["outliers"])
    compared = f"by {results['features']}; labels checked by a linear probe and {results['method']}"
    found = [
        Finding("images compared", compared),
        Finding("likely wrong labels", f"{issues}" + (": see relabel.csv" if issues else ""), issues > 0, "labels"),
        Finding("outliers", f"{far}" + (": see outliers.csv" if far else ""), section="outliers"),
    ]
    for way, numbers in results["leakage"].items():
        title = "current split" if way == "present" else f"split by data.{way}"
        if "impossible" in numbers:
            found.append(Finding(f"split by {way}", f"impossible, {numbers['impossible']}"))
            continue
        images = " / ".join(str(numbers["images"][split]) for split in SPLITS)
        leaks = (
            f"{numbers['crossing']} pairs in two splits ({numbers['by_pixels']} by pixels), "
            f"{numbers['leaked']:.1%} of test images have a duplicate in training"
        )
        found.append(Finding(title, f"{images} images, {leaks}", section="duplicates"))
    return found
