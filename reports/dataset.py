"""What a survey of photos comes to: on the terminal, as numbers, and as lists that `data.exclude` reads."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from litesort.io import write_text
from reports.summary import shown_path

SPLITS = ("train", "val", "test")


def summarize(found: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of a survey (see `datamodules.quality.report`): counts, quantiles, duplicates, leakage.

    Args:
        found: `classes`, `photos` (rows) and `pairs` (duplicates).

    Returns:
        counts: class -> split -> photos; imbalance: largest class over smallest; imbalance_of: split -> the same;
        looks: class -> median brightness and colour; quantiles: of width, height, aspect (width over height), bytes
        and brightness at 0, 5, 50, 95 and 100 %; odd: what is unusual -> photos; broken, equal, near: how many photos
        and pairs; crossing, crossing_by_pixels: pairs on two sides of the split; leaked: share of test photos that have
        a twin in training; disagreeing: pairs under two labels.
    """
    photos, pairs = found["photos"], found["pairs"]
    readable = [photo for photo in photos if photo["broken"] is None]
    counted = Counter((photo["label"], photo["split"]) for photo in readable)
    counts = {name: {split: counted[name, split] for split in SPLITS} for name in found["classes"]}
    totals = [sum(of.values()) for of in counts.values()]
    sized = [photo for photo in readable if photo["width"] and photo["height"]]
    series = {key: [photo[key] for photo in sized] for key in ("width", "height", "bytes", "brightness")}
    series["aspect"] = [photo["width"] / photo["height"] for photo in sized]
    twins = [(photos[pair["rows"][0]], photos[pair["rows"][1]]) for pair in pairs]
    leaked = {p["path"] for a, b in twins for p, q in ((a, b), (b, a)) if (p["split"], q["split"]) == ("test", "train")}
    tested = sum(photo["split"] == "test" for photo in readable)
    return {
        "counts": counts,
        "imbalance": max(totals) / max(1, min(totals)),
        "imbalance_of": {split: _ratio([of[split] for of in counts.values()]) for split in SPLITS},
        "looks": {name: _look(readable, name) for name in found["classes"]},
        "odd": dict(Counter(reason for photo in readable for reason in photo["odd"]).most_common()),
        "quantiles": {key: _quantiles(values) for key, values in series.items()},
        "broken": len(photos) - len(readable),
        "equal": sum(pair["equal"] for pair in pairs),
        "near": sum(not pair["equal"] for pair in pairs),
        "crossing": sum(a["split"] != b["split"] for a, b in twins),
        "crossing_by_pixels": sum(
            a["split"] != b["split"] and pair["by"] == "pixels" for pair, (a, b) in zip(pairs, twins, strict=True)
        ),
        "disagreeing": sum(a["label"] != b["label"] for a, b in twins),
        "leaked": len(leaked) / tested if tested else 0.0,
    }


def _ratio(counts: Sequence[int]) -> float | None:
    """Largest count over smallest; None where a class has no photo."""
    return max(counts) / min(counts) if min(counts) else None


def _look(photos: Sequence[Mapping[str, Any]], label: str) -> dict[str, float | None]:
    """Median brightness and colour of a class, in levels; None where it has no photo."""
    own = [photo for photo in photos if photo["label"] == label]
    return {key: median(photo[key] for photo in own) if own else None for key in ("brightness", "colour")}


def _quantiles(values: Sequence[float]) -> list[float]:
    return np.round(np.percentile(values, [0, 5, 50, 95, 100]), 3).tolist() if len(values) else []


def write_lists(folder: Path, found: Mapping[str, Any]) -> list[Path]:
    """Write the lists that people go through, and that training reads.

    exclude.csv: path, reason: broken photos, and each copy but the first. duplicates.csv: all pairs. relabel.csv: path
    and likely label of each suspect, worst first, for `data.relabel=FILE` once somebody has looked at them.
    outliers.csv: path, label, distance, the furthest first. odd.csv: path, label, what is unusual about the file.
    """
    photos = found["photos"]
    out = {photo["path"]: photo["broken"] for photo in photos if photo["broken"] is not None}
    for pair in found["pairs"]:
        if pair["equal"]:
            first, second = (photos[row]["path"] for row in pair["rows"])
            out.setdefault(second, f"equal to {first}")
    rows = [
        (
            photos[a]["path"],
            photos[b]["path"],
            pair["similarity"],
            pair["equal"],
            photos[a]["split"],
            photos[b]["split"],
        )
        for pair in found["pairs"]
        for a, b in [pair["rows"]]
    ]
    issues = [
        (photos[one["row"]]["path"], one["likely"], one["given"], one["own"], one["other"])
        for one in found.get("label_issues", [])
    ]
    far = [
        (photos[one["row"]]["path"], photos[one["row"]]["label"], one["distance"]) for one in found.get("outliers", [])
    ]
    odd = [(photo["path"], photo["label"], "; ".join(photo["odd"])) for photo in photos if photo["odd"]]
    header = ("path", "other", "similarity", "equal", "split", "other_split")
    return [
        _write(folder / "exclude.csv", [("path", "reason"), *out.items()]),
        _write(folder / "duplicates.csv", [header, *rows]),
        _write(folder / "relabel.csv", [("path", "label", "given", "own", "other"), *issues]),
        _write(folder / "outliers.csv", [("path", "label", "distance"), *far]),
        _write(folder / "odd.csv", [("path", "label", "odd"), *odd]),
    ]


def _write(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    """Plain CSV: the paths must read back as they are, so none gets a spreadsheet's apostrophe."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return write_text(path, text.getvalue().encode("utf-8", "backslashreplace").decode())


def print_overview(results: Mapping[str, Any], files: Sequence[Path] = (), console: Console | None = None) -> None:
    """Print counts a class and split, sizes and faults, then the files that were written."""
    console = console or Console()
    table = Table("class", *SPLITS, "all", box=None)
    for name, of in results["counts"].items():
        table.add_row(Text(name), *(f"{of[split]:,}" for split in SPLITS), f"{sum(of.values()):,}")
    console.print(Text(f"\n{results['data']}: {len(results['photos']):,} photos", style="bold"))
    console.print(table)
    for line, alarming in lines(results):
        console.print(Text(line, style="red" if alarming else ""))
    for file in files:
        console.print(Text(f"  {shown_path(file)}"), soft_wrap=True)


def lines(results: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Sentences about the set, and whether each is a cause for alarm."""
    said = [(f"largest class over smallest: {results['imbalance']:.1f}", results["imbalance"] > 10)]
    for key, unit in (("width", "px"), ("height", "px"), ("aspect", "")):
        if values := results["quantiles"][key]:
            middle = f"{values[2]:g} {unit}".rstrip()
            said.append((f"{key}: median {middle}, 90 % of photos from {values[1]:g} to {values[3]:g}", False))
    said.append((f"broken files: {results['broken']}", results["broken"] > 0))
    if results["odd"]:
        said.append(("odd files: " + ", ".join(f"{n:,} {what}" for what, n in results["odd"].items()), False))
    said.append((f"pairs of equal files: {results['equal']}, of photos that show the same: {results['near']}", False))
    if results["disagreeing"]:
        said.append((f"of these under two labels: {results['disagreeing']}", True))
    if results["crossing"]:
        leaked = f"{results['leaked']:.1%} of the test photos have a twin in training"
        hint = "data.group_by=duplicates keeps together what pixels show"
        if not results["crossing_by_pixels"]:  # nothing that it could fix
            hint = "alike to a network, not by pixels, which are all that data.group_by=duplicates looks at"
        said.append((f"of these on two sides of the split: {results['crossing']}; {leaked}: {hint}", True))
    return said + _label_issues_and_outliers(results)


def _label_issues_and_outliers(results: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Sentences about what features show; none where nobody looked at them."""
    if "features" not in results:
        return []
    issues, far = len(results["label_issues"]), len(results["outliers"])
    said = [
        (f"photos compared by {results['features']}; labels evaluated by a linear probe and {results['method']}", False)
    ]
    said.append((f"labels that are likely wrong: {issues}" + (": look at relabel.csv" if issues else ""), issues > 0))
    said.append((f"photos that are like no other: {far}" + (": see outliers.csv" if far else ""), False))
    for way, numbers in results["leakage"].items():
        if "impossible" in numbers:
            said.append((f"split by {way}: impossible, {numbers['impossible']}", False))
            continue
        photos = " / ".join(str(numbers["photos"][split]) for split in SPLITS)
        leaks = (
            f"{numbers['crossing']} pairs on two sides ({numbers['by_pixels']} by pixels), "
            f"{numbers['leaked']:.1%} of test photos have a twin in training"
        )
        said.append(
            (f"{'the present split' if way == 'present' else 'split by data.' + way}: {photos} photos, {leaks}", False)
        )
    return said
