"""Figures of a run as PNG files: confusion matrix, reliability diagram and Pareto front.

The colours are distinct for colour-blind readers. Drawing does not change the global state of matplotlib. Files are
written atomically.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from litesort.io import atomic_path
from reports.calibration import calibration_error, reliability
from reports.pareto import Box, drawable, front, needs_log, place_labels, stairs

# Okabe and Ito's palette: distinct for all common kinds of colour vision.
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
    "text.parse_math": False,  # a class name may contain $
}


def confusion_matrix(matrix: np.ndarray, classes: Sequence[str], path: Path, title: str = "") -> Path:
    """Draw a confusion matrix. The shade of a cell is its share of the row; on the diagonal it is the recall.

    Args:
        matrix: (C, C) int, row = label, column = prediction.
        classes: (C,) names.
        path: PNG to write.
        title: Title of the figure.

    Returns:
        `path`.
    """
    matrix = np.asarray(matrix)
    count = len(classes)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = max(2.6, min(0.62 * count, 4.0 + 0.3 * count, 16))
    with _figure(1.05 * side + 2.8, side + 1.1, path) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        names = [f"{name} ({total})" for name, total in zip(classes, matrix.sum(axis=1), strict=True)]
        small = 10 if count <= 20 else max(4, 10 * 20 / count)
        axes.set_xticks(range(count), classes, rotation=40, ha="right", rotation_mode="anchor", fontsize=small)
        axes.set_yticks(range(count), names, fontsize=small)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="prediction", ylabel="label (images)", title=title)
        for row, column in zip(*np.nonzero(matrix), strict=True) if count <= 30 else ():
            text = f"{matrix[row, column]}"
            if count <= 12:
                text += f"\n{share[row, column]:.0%}" if share[row, column] >= 0.005 else "\n<1%"
            shade = "white" if share[row, column] > 0.55 else INK
            axes.text(column, row, text, ha="center", va="center", color=shade, fontsize=8 if count <= 12 else 6)
        bar = figure.colorbar(image, cax=axes.inset_axes((1.03, 0, 0.03, 1)), label="share of the label's images")
        bar.ax.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
        bar.outline.set_visible(False)
    return path


def reliability_diagram(
    confidence: np.ndarray, correct: np.ndarray, path: Path, bins: int = 15, title: str = "Reliability"
) -> Path:
    """Draw accuracy against confidence in bins of equal width, and below it the share of predictions per bin.

    Args:
        confidence: (N,) float in [0, 1].
        correct: (N,) bool.
        path: PNG to write.
        bins: Number of bins.
        title: Title of the figure. The expected calibration error is appended.

    Returns:
        `path`.
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
        lower.set(xlabel="confidence of the prediction", ylabel="predictions")
    return path


def pareto(
    points: Sequence[tuple[str, float, float]],
    path: Path,
    title: str = "Macro F1 against time",
    time: str = "latency in ms",
    f1: str = "macro F1",
) -> Path:
    """Draw macro F1 against time, with the Pareto front as a line.

    Args:
        points: Name, time and macro F1 of each point. A point with NaN is left out.
        path: PNG to write.
        title: Title of the figure.
        time: Label of the time axis.
        f1: Label of the axis of macro F1.

    Returns:
        `path`.
    """
    points = [points[i] for i in drawable([{"cost": cost, "value": value} for _, cost, value in points])]
    costs, values = [point[1] for point in points], [point[2] for point in points]
    best = front(costs, values)
    with _figure(7.0, 4.6, path) as figure:
        axes = figure.add_subplot()
        if best:
            axes.plot(*zip(*stairs([points[i][1:] for i in best]), strict=True), color=BLUE, lw=1.5)
        groups = (True, "o", BLUE, "on the front"), (False, "X", GREY, "dominated")
        for chosen, marker, colour, label in groups:
            at = [i for i in range(len(points)) if (i in best) == chosen]
            x, y = [costs[i] for i in at], [values[i] for i in at]
            axes.scatter(x, y, s=52, c=colour, marker=marker, label=label, zorder=3)
        if needs_log(costs):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
            axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        axes.margins(x=0.1, y=0.14)
        axes.grid()
        axes.set(xlabel=f"{time} (lower is better)", ylabel=f"{f1} (higher is better)", title=title)
        if len(best) < len(points):  # above the axes, where the legend covers no point
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=9, borderaxespad=0.3)
        if best:
            _label_points(axes, points, best)
    return path


@contextmanager
def _figure(width: float, height: float, path: Path) -> Iterator[Figure]:
    with matplotlib.rc_context(STYLE), warnings.catch_warnings(), atomic_path(path) as temporary:
        # The bundled font lacks the glyphs of some scripts. One warning per glyph would hide other messages.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(temporary, format="png", dpi=150, facecolor="white")


def _label_points(axes: Axes, points: Sequence[tuple[str, float, float]], best: Sequence[int]) -> None:
    """Write names next to points; see `reports.pareto.place_labels`."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # positions in pixels are known after drawing only
    unit = figure.dpi / 72  # pixels per point
    texts = [axes.text(0, 0, name, fontsize=8.5) for name, _, _ in points]
    extents = [text.get_window_extent() for text in texts]
    for text in texts:
        text.remove()
    spots = [(float(x), float(y)) for x, y in axes.transData.transform([point[1:] for point in points])]
    room = Box(*axes.get_window_extent().extents)
    sizes = [(extent.width, extent.height) for extent in extents]
    for i, label in place_labels(spots, sizes, best, room, unit):
        style: Any = {
            "color": INK if i in best else "#666666",
            "fontsize": 8.5,
            "va": "bottom" if label.up > 0 else "top",
            "ha": "left" if label.right > 0 else "right" if label.right < 0 else "center",
        }
        if label.line:
            style["arrowprops"] = {"arrowstyle": "-", "color": GREY, "lw": 0.8, "shrinkA": 0, "shrinkB": 4}
        offset = label.right / unit, label.up / unit
        axes.annotate(points[i][0], points[i][1:], offset, textcoords="offset points", **style)
