"""Pictures of a run: drawn without global state, readable in print and by the colour-blind, written atomically."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from litesort.io import replacing
from reports.calibration import calibration_error, reliability
from reports.pareto import front

# Where the name of a point may stand: to its right and upwards, in points, and whether a line leads there; best first.
PLACES = (
    *((right, up, False) for right, up in ((-5, 4), (5, -4), (0, 6), (0, -6), (5, 4), (-5, -4))),
    *((right, up, True) for far in (18, 32, 48) for right, up in ((-far, far), (far, -far), (-far, -far), (far, far))),
)
# Okabe and Ito's palette, told apart by all common kinds of colour vision.
BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#999999", "#222222"
STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,  # a class may be called $5
}


def confusion_matrix(matrix: np.ndarray, classes: Sequence[str], path: Path, title: str = "") -> Path:
    """Draw counts, shaded by their share of the row; the diagonal's share is the recall of the class.

    Args:
        matrix: (C, C) int, row = label, column = prediction.
        classes: (C,) names.
        path: PNG to write.
        title: Above the picture.
    """
    matrix = np.asarray(matrix)
    count = len(classes)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = max(2.6, min(0.62 * count, 4.0 + 0.3 * count, 16))
    with _figure(1.05 * side + 2.8, side + 1.1, path) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        names = [f"{name} ({photos})" for name, photos in zip(classes, matrix.sum(axis=1), strict=True)]
        small = 10 if count <= 20 else max(4, 10 * 20 / count)
        axes.set_xticks(range(count), classes, rotation=40, ha="right", rotation_mode="anchor", fontsize=small)
        axes.set_yticks(range(count), names, fontsize=small)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="prediction", ylabel="label (photos)", title=title)
        for row, column in zip(*np.nonzero(matrix), strict=True) if count <= 30 else ():
            text = f"{matrix[row, column]}"
            if count <= 12:
                text += f"\n{share[row, column]:.0%}" if share[row, column] >= 0.005 else "\n<1%"
            shade = "white" if share[row, column] > 0.55 else INK
            axes.text(column, row, text, ha="center", va="center", color=shade, fontsize=8 if count <= 12 else 6)
        bar = figure.colorbar(image, cax=axes.inset_axes((1.03, 0, 0.03, 1)), label="share of the label's photos")
        bar.ax.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
        bar.outline.set_visible(False)
    return path


def reliability_diagram(
    confidence: np.ndarray, correct: np.ndarray, path: Path, bins: int = 15, title: str = "Reliability"
) -> Path:
    """Draw accuracy against confidence in equal bins, and below it how many answers each bin has.

    Args:
        confidence: (N,) float in [0, 1].
        correct: (N,) bool.
        path: PNG to write.
        bins: Number of bins.
        title: Above the picture; the expected calibration error follows it.
    """
    binned = reliability(confidence, correct, bins)
    width, centres = 1 / bins, (binned.edges[:-1] + binned.edges[1:]) / 2
    with _figure(5.2, 5.6, path) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2, label="perfectly calibrated", zorder=3)
        upper.bar(centres, binned.accuracy, width * 0.94, color=BLUE, label="accuracy")
        gap = binned.confidence - binned.accuracy
        hatched = {"facecolor": "none", "edgecolor": ORANGE, "hatch": "////", "label": "gap to mean confidence"}
        upper.bar(centres, gap, width * 0.94, bottom=binned.accuracy, **hatched)
        title = f"{title}   ECE {calibration_error(confidence, correct, bins):.3f}"
        upper.set(ylabel="accuracy", ylim=(0, 1.02), xlim=(0, 1), title=title)
        upper.legend(loc="upper left")
        upper.grid(axis="y")
        lower.bar(centres, binned.counts / max(binned.counts.sum(), 1), width * 0.94, color=GREY)
        lower.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
        lower.set(xlabel="confidence of the answer", ylabel="answers")
    return path


def pareto(
    points: Sequence[tuple[str, float, float]],
    path: Path,
    title: str = "Macro F1 against time",
    time: str = "latency in ms",
) -> Path:
    """Draw what each run reaches at which cost; the front joins those that no other run beats on both.

    Args:
        points: (name, latency in ms, macro F1); one with NaN is left out.
        path: PNG to write.
        title: Above the picture.
        time: What the second number of the points is.
    """
    points = [point for point in points if math.isfinite(point[1]) and point[1] > 0 and math.isfinite(point[2])]
    costs, values = [point[1] for point in points], [point[2] for point in points]
    best = front(costs, values)
    with _figure(7.0, 4.6, path) as figure:
        axes = figure.add_subplot()
        axes.plot([costs[i] for i in best], [values[i] for i in best], color=BLUE, ds="steps-post", lw=1.5)
        looks = (True, "o", BLUE, "on the front"), (False, "X", GREY, "beaten by another")
        for chosen, marker, colour, label in looks:
            at = [i for i in range(len(points)) if (i in best) == chosen]
            x, y = [costs[i] for i in at], [values[i] for i in at]
            axes.scatter(x, y, s=52, c=colour, marker=marker, label=label, zorder=3)
        if costs and max(costs) > 8 * min(costs):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
            axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        axes.margins(x=0.1, y=0.14)
        axes.grid()
        axes.set(xlabel=f"{time} (lower is better)", ylabel="macro F1 (higher is better)", title=title)
        if len(best) < len(points):  # above the axes, where it hides no point
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=9, borderaxespad=0.3)
        if best:
            _name_points(axes, points, best)
    return path


@contextmanager
def _figure(width: float, height: float, path: Path) -> Iterator[Figure]:
    with matplotlib.rc_context(STYLE), warnings.catch_warnings(), replacing(path) as temporary:
        # A class named in a script that the bundled font lacks is drawn as boxes; that is no reason to warn per glyph.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(temporary, format="png", dpi=150, facecolor="white")


def _name_points(axes: Axes, points: Sequence[tuple[str, float, float]], best: Sequence[int]) -> None:
    """Name the front, and where there are few points, all: each beside its point, where it hides no other.

    A name that fits nowhere close stands further away, on a line; one that fits nowhere at all is left out.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # only now is known where points are
    room, size = axes.get_window_extent(), figure.dpi * 4 / 72
    spots = [axes.transData.transform(point[1:]) for point in points]
    steps = [spots[best[0]], *(at for a, b in pairwise(best) for at in ((spots[b][0], spots[a][1]), spots[b]))]
    taken = [Bbox([spot - size, spot + size]) for spot in spots]
    taken += [Bbox([np.minimum(a, b) - 1, np.maximum(a, b) + 1]) for a, b in pairwise(steps)]
    rest = [i for i in range(len(points)) if i not in best] if len(points) <= 20 else []
    for i in [*best, *rest]:
        name, at = points[i][0], points[i][1:]
        colour = INK if i in best else "#666666"
        for right, up, line in PLACES:
            look: Any = {
                "color": colour, "fontsize": 8.5, "va": "bottom" if up > 0 else "top",
                "ha": "left" if right > 0 else "right" if right < 0 else "center",
            }  # fmt: skip
            if line:
                look["arrowprops"] = {"arrowstyle": "-", "color": GREY, "lw": 0.8, "shrinkA": 0, "shrinkB": 4}
            text = axes.annotate(name, at, (right, up), textcoords="offset points", **look)
            text.get_window_extent()  # puts it in its place; with its line, which a name may cross
            box = Text.get_window_extent(text)
            inside = room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()
