"""A survey of photos as one HTML page that needs no other file and no network."""

import base64
import html
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from litesort.io import write_text
from reports.dataset import SPLITS, lines

Read = Callable[[int], np.ndarray]  # row -> (H, W, 3) uint8

VIEWPORT = "<meta name=viewport content='width=device-width'>"  # else a phone shows it at a third of its size
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}
h1{overflow-wrap:anywhere}table{border-collapse:collapse;display:block;overflow-x:auto}
td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}.alarm{color:#b00020;font-weight:600}
.sheet{display:flex;flex-wrap:wrap;gap:6px}.pair{display:flex;gap:2px;padding:4px;border:2px solid #ddd}
figure{margin:0;width:112px;font-size:11px;overflow-wrap:anywhere}
.pair.alarm{border-color:#b00020}svg{max-width:100%}img{width:112px;height:112px;object-fit:contain;background:#eee}svg{margin-right:1.5em}
@media(prefers-color-scheme:dark){body{background:#14171a;color:#e6e9ec}td,th,.pair{border-color:#363d44}svg{fill:#e6e9ec}
.alarm{color:#ff8a80}.pair.alarm{border-color:#ff8a80}img{background:#222}}"""


def write_page(path: Path, results: Mapping[str, Any], read: Read, sheet: int = 24, pairs: int = 60) -> Path:
    """Write the page; returns `path`.

    Args:
        path: HTML file.
        results: what explore.json holds.
        read: pixels of a row; what it raises leaves the picture out.
        sheet: photos a class.
        pairs: duplicates shown, those that cross the split first.
    """
    parts = [
        f"<h1>{html.escape(results['data'])}</h1>",
        *(f"<p{' class=alarm' if alarming else ''}>{html.escape(line)}</p>" for line, alarming in lines(results)),
        _counts(results), "<h2>Sizes</h2>", *_histograms(results), _broken(results),
        _odd(results), *_duplicates(results, read, pairs), *_label_issues_and_outliers(results, read, pairs),
        *_sheets(results, read, sheet),
    ]  # fmt: skip
    title = html.escape(results["data"])
    head = f"<!doctype html><html lang=en><meta charset=utf-8>{VIEWPORT}<title>{title}</title><style>{STYLE}</style>"
    return write_text(path, (head + "\n".join(parts)).encode("utf-8", "backslashreplace").decode() + "</html>\n")


def _counts(results: Mapping[str, Any]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("class", *SPLITS, "all", "share", "brightness", "colour"))
    rows, total = [], sum(sum(of.values()) for of in results["counts"].values())
    for name, of in results["counts"].items():
        own, look = sum(of.values()), results["looks"][name]
        cells = [*(of[split] for split in SPLITS), own, f"{own / max(1, total):.1%}"]
        cells += ["" if level is None else f"{level:.0f}" for level in (look["brightness"], look["colour"])]
        rows.append(f"<tr><td>{html.escape(name)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    ratios = [*(results["imbalance_of"][split] for split in SPLITS), results["imbalance"]]
    cells = ["" if ratio is None else f"{ratio:.1f}" for ratio in ratios]
    rows.append(
        f"<tr><td>largest / smallest</td>{''.join(f'<td>{cell}</td>' for cell in cells)}<td colspan=3></td></tr>"
    )
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _histograms(results: Mapping[str, Any]) -> list[str]:
    photos = [photo for photo in results["photos"] if photo["broken"] is None and photo["width"] and photo["height"]]
    series = {key: [photo[key] for photo in photos] for key in ("width", "height", "bytes", "brightness", "colour")}
    series["width / height"] = [photo["width"] / photo["height"] for photo in photos]
    return [_bars(title, np.array(values, float)) for title, values in series.items() if values]


def _bars(title: str, values: np.ndarray) -> str:
    """A histogram of 30 bars, drawn as SVG."""
    counts, edges = np.histogram(values, 30)
    bars = "".join(
        f"<rect x='{10 * i}' y='{100 - 100 * n / counts.max():.1f}' width='9' height='{100 * n / counts.max():.1f}' "
        f"fill='#0072B2'><title>{_short(edges[i])} to {_short(edges[i + 1])}: {n}</title></rect>"
        for i, n in enumerate(counts)
    )
    ends = f"<text x='0' y='114'>{_short(edges[0])}</text>"
    ends += f"<text x='300' y='114' text-anchor='end'>{_short(edges[-1])}</text>"
    if values.min() == values.max():  # the edges are then made up
        ends = f"<text x='150' y='114' text-anchor='middle'>{_short(values[0])}</text>"
    drawn = f"<text y='-6'>{title}</text>{bars}{ends}"
    return f"<svg width='320' height='140' viewBox='0 -18 310 140' font-size='12'>{drawn}</svg>"


def _short(value: float) -> str:
    """Four digits, never a power of ten: 0.749, 224.5, 37,790."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _broken(results: Mapping[str, Any]) -> str:
    broken = [photo for photo in results["photos"] if photo["broken"] is not None]
    items = "".join(f"<li>{html.escape(photo['path'])}: {html.escape(photo['broken'])}</li>" for photo in broken[:200])
    return f"<h2>Broken files</h2><ul>{items}</ul>" if broken else ""


def _odd(results: Mapping[str, Any]) -> str:
    odd = [photo for photo in results["photos"] if photo["odd"]]
    items = "".join(
        f"<li>{html.escape(photo['path'])}: {html.escape('; '.join(photo['odd']))}</li>" for photo in odd[:200]
    )
    note = f"<p>{min(200, len(odd))} of {len(odd)}; odd.csv has them all. They are read like all others.</p>"
    return f"<h2>Odd files</h2>{note}<ul>{items}</ul>" if odd else ""


def _duplicates(results: Mapping[str, Any], read: Read, pairs: int) -> list[str]:
    photos = results["photos"]

    def crosses(pair: Mapping[str, Any]) -> bool:
        first, second = (photos[row] for row in pair["rows"])
        return first["split"] != second["split"] or first["label"] != second["label"]

    chosen = sorted(results["pairs"], key=lambda pair: (not crosses(pair), -pair["similarity"]))[:pairs]
    if not chosen:
        return []
    shown = [
        f"<div class='pair{' alarm' if crosses(pair) else ''}' title='similarity {pair['similarity']}'>"
        + "".join(_figure(photos[row], read, row) for row in pair["rows"]) + "</div>"
        for pair in chosen
    ]  # fmt: skip
    note = f"{len(chosen)} of {len(results['pairs'])} pairs; red: on two sides of the split, or under two labels"
    return [f"<h2>Duplicates</h2><p>{note}</p><div class=sheet>", *shown, "</div>"]


def _label_issues_and_outliers(results: Mapping[str, Any], read: Read, most: int) -> list[str]:
    """Photos whose label is doubted, and those that are like no other."""
    issues, far = results.get("label_issues", [])[:most], results.get("outliers", [])[:most]
    parts = []
    if issues:
        note = f"{len(issues)} of {len(results['label_issues'])}, worst first; relabel.csv has them all"
        figures = (
            _figure(results["photos"][one["row"]], read, one["row"], f" likely {one['likely']} ({one['other']:.0%})")
            for one in issues
        )
        parts += [f"<h2>Likely wrong labels</h2><p>{note}</p><div class=sheet>", *figures, "</div>"]
    if far:
        figures = (_figure(results["photos"][one["row"]], read, one["row"]) for one in far)
        note = f"{len(far)} of {len(results['outliers'])}, furthest from all others first"
        parts += [f"<h2>Rare images and outliers</h2><p>{note}</p><div class=sheet>", *figures, "</div>"]
    return parts


def _sheets(results: Mapping[str, Any], read: Read, sheet: int) -> list[str]:
    parts = []
    for name in results["classes"]:
        rows = [i for i, photo in enumerate(results["photos"]) if photo["label"] == name and photo["broken"] is None]
        picked = [rows[i] for i in np.linspace(0, len(rows) - 1, min(sheet, len(rows))).astype(int)]
        figures = "".join(_figure(results["photos"][row], read, row) for row in picked)
        parts.append(f"<h2>{html.escape(name)}</h2><div class=sheet>{figures}</div>")
    return parts


def _figure(photo: Mapping[str, Any], read: Read, row: int, more: str = "") -> str:
    caption = f"{photo['path']} ({photo['label']}, {photo['split'] or 'in no split'}){more}"
    return f"<figure>{_picture(read, row)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _picture(read: Read, row: int) -> str:
    try:
        picture = Image.fromarray(read(row))
    except Exception as error:  # a report goes on without the photo, whatever is wrong with it
        return f"<p>{html.escape(str(error))}</p>"
    picture.thumbnail((112, 112))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return f"<img alt='' src='data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}'>"
