"""HTML page of a data report: counts, sizes, problems and sample images."""

import base64
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reports.dataset import SPLITS, findings
from reports.html.engine import write_html

Read = Callable[[int], np.ndarray]  # maps the row of an image to its pixels, (H, W, 3) uint8

SIDE = 112  # largest side of an image on the page, in pixels
MAX_FILES = 200  # entries in a list of files
BARS = 30  # of a histogram
MAX_LINKS = 24  # sections in the navigation; classes come last


def write_page(path: Path, results: Mapping[str, Any], read: Read, sheet: int = 24, pairs: int = 60) -> Path:
    """Write the page, and return `path`.

    Args:
        path: HTML file.
        results: Content of explore.json.
        read: Reads the image of a row. If it raises an exception, the page shows the error in place of the image.
        sheet: Largest number of images per class.
        pairs: Largest number of duplicates. Pairs in two splits or with two labels come first.
    """
    histograms, uniform = _histograms(results)
    sections = [
        *_lists(results),
        *_label_issues_and_outliers(results, read, pairs),
        *_samples(results, read, sheet),
    ]
    shown = {"counts", *(["sizes"] * bool(histograms or uniform)), *(["duplicates"] * bool(results["pairs"]))}
    shown |= {section["id"] for section in sections}
    values = {
        "findings": sorted(findings(results), key=lambda finding: not finding.alarming),
        "shown": shown,
        "in_navigation": {section["id"] for section in sections[:MAX_LINKS]},
        "images": len(results["images"]),
        "counts": _counts(results),
        "histograms": histograms,
        "uniform": uniform,
        "sections": sections,
        "pairs": _duplicates(results, read, pairs),
        "all_pairs": len(results["pairs"]),
    }
    return write_html(path, "dataset.html.jinja", values, results["data"], scripts=["filter.js"])


def _counts(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of images per class and split."""
    rows: list[tuple[str, list[Any]]] = []
    total = sum(sum(of.values()) for of in results["counts"].values())
    for name, of in results["counts"].items():
        own, look = sum(of.values()), results["looks"][name]
        cells = [*(of[split] for split in SPLITS), own, f"{own / max(1, total):.1%}"]
        cells += ["" if level is None else f"{level:.0f}" for level in (look["brightness"], look["colour"])]
        rows.append((name, cells))
    ratios = [*(results["imbalance_of"][split] for split in SPLITS), results["imbalance"]]
    rows.append(("largest / smallest", ["" if r is None else f"{r:.1f}" for r in ratios] + [""] * 3))
    return {"heads": ["class", *SPLITS, "all", "share", "brightness", "colour"], "rows": rows}


def _histograms(results: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Return histograms, and name and value of each property that is equal in all images."""
    images = [image for image in results["images"] if image["broken"] is None and image["width"] and image["height"]]
    series = {key: [image[key] for image in images] for key in ("width", "height", "bytes", "brightness", "colour")}
    series["width / height"] = [image["width"] / image["height"] for image in images]
    varying = {title: np.array(values, float) for title, values in series.items() if len(set(values)) > 1}
    uniform = [(title, _short(values[0])) for title, values in series.items() if len(set(values)) == 1]
    return [_histogram(title, values) for title, values in varying.items()], uniform


def _histogram(title: str, values: np.ndarray) -> dict[str, Any]:
    """Return the layout of a histogram, 310 x 122 px. The values are not all equal."""
    counts, edges = np.histogram(values, BARS)
    heights = 100 * counts / counts.max()
    bars = [
        {
            "x": 10 * i,
            "y": f"{100 - heights[i]:.1f}",
            "height": f"{heights[i]:.1f}",
            "tip": f"{_short(edges[i])} to {_short(edges[i + 1])}: {count}",
        }
        for i, count in enumerate(counts)
    ]
    ends = [(0, "start", _short(edges[0])), (300, "end", _short(edges[-1]))]
    return {"title": title, "bars": bars, "ends": ends}


def _short(value: float) -> str:
    """Return a number as text without an exponent: 0.749, 224.5, 37,790."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _lists(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return sections of broken and unusual files with the reasons; none without such files."""
    images = results["images"]
    broken = [(image["path"], image["broken"]) for image in images if image["broken"] is not None]
    unusual = [(image["path"], "; ".join(image["issues"])) for image in images if image["issues"]]
    note = f"{min(MAX_FILES, len(unusual))} of {len(unusual)}; image_issues.csv lists all. Training uses these files."
    sections = [("broken", "Broken files", "", broken), ("unusual", "Unusual files", note, unusual)]
    return [
        {"id": section, "title": title, "note": note, "files": files[:MAX_FILES], "images": []}
        for section, title, note, files in sections
        if files
    ]


def _duplicates(results: Mapping[str, Any], read: Read, count: int) -> list[dict[str, Any]]:
    images = results["images"]

    def alarming(pair: Mapping[str, Any]) -> bool:
        first, second = (images[row] for row in pair["rows"])
        return bool(first["split"] != second["split"] or first["label"] != second["label"])

    chosen = sorted(results["pairs"], key=lambda pair: (not alarming(pair), -pair["similarity"]))[:count]
    return [
        {
            "alarming": alarming(pair),
            "similarity": pair["similarity"],
            "images": [_image(images[row], read, row) for row in pair["rows"]],
            "find": " ".join(f"{images[row]['path']} {images[row]['label']}" for row in pair["rows"]).lower(),
        }
        for pair in chosen
    ]


def _label_issues_and_outliers(results: Mapping[str, Any], read: Read, most: int) -> list[dict[str, Any]]:
    """Return sections of likely wrong labels and of outliers, if there are any."""
    images = results["images"]
    issues, outliers = results.get("label_issues", []), results.get("outliers", [])
    sections: list[dict[str, Any]] = []
    if issues:
        shown = [
            _image(
                images[one["row"]],
                read,
                one["row"],
                f"likely {one['predicted_label']} ({one['predicted_probability']:.0%})",
            )
            for one in issues[:most]
        ]
        note = f"{len(shown)} of {len(issues)}, most likely first; relabel.csv lists all"
        sections.append({"id": "labels", "title": "Likely wrong labels", "note": note, "files": [], "images": shown})
    if outliers:
        shown = [_image(images[one["row"]], read, one["row"]) for one in outliers[:most]]
        note = f"{len(shown)} of {len(outliers)}, furthest from all others first"
        title = "Rare images and outliers"
        sections.append({"id": "outliers", "title": title, "note": note, "files": [], "images": shown})
    return sections


def _samples(results: Mapping[str, Any], read: Read, count: int) -> list[dict[str, Any]]:
    """Return a section for each class with evenly spaced sample images."""
    images = results["images"]
    sections: list[dict[str, Any]] = []
    for i, name in enumerate(results["classes"]):
        rows = [row for row, image in enumerate(images) if image["label"] == name and image["broken"] is None]
        picked = [rows[place] for place in np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]
        shown = [_image(images[row], read, row) for row in picked]
        note = f"{len(shown)} of {len(rows)}"
        sections.append({"id": f"class-{i}", "title": name, "note": note, "files": [], "images": shown})
    return sections


def _image(image: Mapping[str, Any], read: Read, row: int, more: str = "") -> dict[str, str]:
    """Return name, label, split and `data:` URL of an image, or the error of reading it."""
    split = image["split"] or "in no split"
    entry = {"path": image["path"], "label": image["label"], "split": split, "more": more}
    try:
        small = Image.fromarray(read(row))
    except Exception as error:  # one unreadable image must not prevent the page
        return entry | {"url": "", "error": str(error)}
    small.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return entry | {"url": f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}", "error": ""}
