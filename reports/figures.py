"""Pictures of a run: drawn without global state, readable in print and by the colour-blind, written atomically."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reports.calibration import calibration_error, reliability
from reports.files import replacing
from reports.pareto import front

# Okabe and Ito's palette, told apart by all common kinds of colour vision.
BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#999999", "#222222"
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


def f1_bars(
    f1: Mapping[str, float], path: Path, support: Mapping[str, int] | None = None, title: str = "F1 by class"
) -> Path:
    """Draw F1 of each class, the best on top, with the macro mean as a line.

    Args:
        f1: Class -> F1 in [0, 1].
        path: PNG to write.
        support: Class -> photos, shown beside its name.
        title: Above the picture.
    """
    names = sorted(f1, key=lambda name: -f1[name])
    values = [f1[name] for name in names]
    with _figure(6.4, max(1.9, 0.36 * len(names) + 1.2), path) as figure:
        axes = figure.add_subplot()
        axes.barh(range(len(names)), values, color=BLUE, height=0.72)
        for row, value in enumerate(values):
            axes.text(1.02, row, f"{value:.3f}", va="center", fontsize=9)
        axes.set_yticks(range(len(names)), [f"{n} ({support[n]})" if support else n for n in names])
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set(xlabel="F1", xlim=(0, 1), xticks=np.linspace(0, 1, 6), title=title)
        if values:
            mean = float(np.mean(values))
            axes.axvline(mean, color=ORANGE, linestyle="--", linewidth=1.4, label=f"macro {mean:.3f}")
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=9, borderaxespad=0.3)
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
        _name_points(axes, points, best)
        axes.grid()
        axes.set(xlabel=f"{time} (lower is better)", ylabel="macro F1 (higher is better)", title=title)
        if len(best) < len(points):  # above the axes, where it hides no point
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=9, borderaxespad=0.3)
    return path


def training_curves(history: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> Path:
    """Draw loss, macro F1 and learning rate by epoch, as far as they were logged.

    Args:
        history: Rows with `epoch` and metrics such as `train/loss`, `val/loss`, `val/f1_macro`, `lr`, in any order; as
            numbers or as text of a CSV file, empty where nothing was logged.
        path: PNG to write.
        title: Above the picture.
    """
    panels = {"loss": "loss", "macro F1": "f1_macro", "learning rate": "lr"}
    curves = {
        panel: {key: _curve(history, key) for key in _logged(history) if part in key.split("/")[-1]}
        for panel, part in panels.items()
    }
    drawn = {panel: {key: xy for key, xy in named.items() if len(xy[0])} for panel, named in curves.items()}
    drawn = {panel: named for panel, named in drawn.items() if named} or {"loss": {}}
    with _figure(4.2 * len(drawn), 3.4, path) as figure:
        figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=11)
        for axes, (panel, named) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True):
            for (key, (epochs, values)), look in zip(named.items(), _looks(), strict=False):
                axes.plot(epochs, values, label=key, linewidth=1.8, **look)
            axes.set(xlabel="epoch", ylabel=panel)
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, nbins=6))
            axes.grid()
            if named:
                axes.legend(fontsize=9)
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
    # The front comes from below and goes to the right, so that its names are free to stand on the upper left, or, where
    # the left has no room, on the lower right. Where it is crowded, the rest go without.
    axes.autoscale_view()
    place = axes.transData + axes.transAxes.inverted()
    for i, (name, cost, value) in enumerate(points):
        if i in best and place.transform((cost, value))[0] > 0.3:
            axes.annotate(name, (cost, value), (-6, 5), textcoords="offset points", fontsize=8.5, ha="right")
        elif i in best:
            axes.annotate(name, (cost, value), (7, -12), textcoords="offset points", fontsize=8.5, ha="left")
        elif len(points) <= 20:
            across = place.transform((cost, value))[0]
            side = "left" if across < 0.2 else "right" if across > 0.8 else "center"  # inside of the picture
            look: Any = {"fontsize": 8.5, "color": "#666666", "ha": side}
            axes.annotate(name, (cost, value), (0, 8), textcoords="offset points", **look)


def _logged(history: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in history for key in row if key != "epoch" and not key.endswith("_step")))


def _curve(history: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    found: dict[float, float] = {}
    for row in history:
        try:
            epoch, value = float(row.get("epoch", "")), float(row.get(key, ""))
        except (TypeError, ValueError):
            continue
        if math.isfinite(epoch) and math.isfinite(value):
            found[epoch] = value
    return sorted(found), [found[epoch] for epoch in sorted(found)]


def _looks() -> Iterator[dict[str, Any]]:
    for line in ("-", "--", ":"):
        for colour in (BLUE, ORANGE, GREEN, GREY):
            yield {"color": colour, "linestyle": line}
