import math
import sys
from itertools import combinations

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from reports import figures

CLASSES = ["Metal", "Paper", r"$\broken$ & <cans>"]


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def colour_share(path, colour):
    """Share of the pixels that have about this colour, in [0, 1]."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return (abs(pixels(path) - rgb).max(axis=2) < 12).mean()


def test_confusion_matrix_shades_the_diagonal(tmp_path):
    good = figures.confusion_matrix(np.diag([9, 90, 900]), CLASSES, tmp_path / "new" / "good.png", title="good")
    even = figures.confusion_matrix(np.full((3, 3), 50), CLASSES, tmp_path / "even.png", title="even")
    assert (pixels(good).sum(2) < 300).mean() > 2 * (pixels(even).sum(2) < 300).mean()
    assert [path.name for path in good.parent.iterdir()] == ["good.png"]  # no temporary file is left


@pytest.mark.parametrize("count", [1, 31])
def test_confusion_matrix_draws_any_number_of_classes(tmp_path, count):
    matrix = np.eye(count, dtype=int)
    matrix[0] = 0
    path = figures.confusion_matrix(matrix, [f"class {i}" for i in range(count)], tmp_path / "a.png")
    height, width, _ = pixels(path).shape
    assert 400 < width < 3000
    assert 400 < height < 3000


def test_reliability_diagram_shows_overconfidence(tmp_path):
    confidence = np.linspace(0.5, 1, 400)
    overconfident = figures.reliability_diagram(confidence, np.zeros(400, bool), tmp_path / "overconfident.png")
    correct = np.random.default_rng(0).random(400) < confidence
    calibrated = figures.reliability_diagram(confidence, correct, tmp_path / "calibrated.png")
    assert colour_share(overconfident, figures.BLUE) < colour_share(calibrated, figures.BLUE)
    assert colour_share(overconfident, figures.ORANGE) > colour_share(calibrated, figures.ORANGE)


def test_pareto_draws_dominated_points_grey_and_skips_nan(tmp_path):
    points = [("a", 1.0, 0.5), ("no time", math.nan, 0.9), ("no f1", 2.0, math.nan)]
    first = figures.pareto(points, tmp_path / "one.png")
    second = figures.pareto([*points, ("dominated", 30.0, 0.4)], tmp_path / "dominated.png")
    assert colour_share(first, figures.GREY) < colour_share(second, figures.GREY)
    assert figures.pareto([], tmp_path / "empty.png").is_file()
    assert figures.pareto([(f"run {i}", 1.0 + i, i / 50) for i in range(40)], tmp_path / "many.png").is_file()


@pytest.mark.parametrize("seed", range(3))
def test_pareto_labels_of_a_crowded_front_do_not_overlap(tmp_path, seed, monkeypatch):
    """Eighteen points are close together, six of them on the front. No label covers a point or another label."""
    seen = {}

    def label_and_record(axes, points, best):
        label_points(axes, points, best)
        for text in axes.texts:
            text.get_window_extent()  # applies the offset
        seen["boxes"] = {text.get_text(): Text.get_window_extent(text) for text in axes.texts}
        seen["points"] = axes.transData.transform([point[1:] for point in points])
        seen["axes"] = axes.get_window_extent()

    label_points = figures._label_points
    monkeypatch.setattr(figures, "_label_points", label_and_record)
    crowd = np.random.default_rng(seed).uniform([1, 0.7], [4, 0.8], (12, 2))
    points = [(f"resnet18d_quarter openvino {i}", cost, value) for i, (cost, value) in enumerate(crowd)]
    points += [(f"front {i}", 0.9 + 0.2 * i, 0.81 + 0.003 * i) for i in range(6)]
    figures.pareto(points, tmp_path / "crowd.png")
    assert sum(name.startswith("front") for name in seen["boxes"]) == 6
    assert not any(a.overlaps(b) for a, b in combinations(seen["boxes"].values(), 2))
    for box in seen["boxes"].values():
        assert not any(box.contains(*point) for point in seen["points"])
        assert seen["axes"].x0 <= box.x0 < box.x1 <= seen["axes"].x1


def test_confusion_matrix_draws_any_script_without_a_warning(tmp_path):
    assert figures.confusion_matrix(np.eye(2, dtype=int), ["플라스틱", "紙"], tmp_path / "a.png").is_file()


def test_figures_do_not_change_the_global_state_of_matplotlib(tmp_path):
    before = dict(matplotlib.rcParams)
    figures.pareto([("a", 1.0, 0.5)], tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
