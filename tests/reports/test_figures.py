import math
import sys
from itertools import combinations

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
    sure = figures.reliability_diagram(confidence, np.zeros(400, bool), tmp_path / "sure.png")
    honest = figures.reliability_diagram(
        confidence, np.random.default_rng(0).random(400) < confidence, tmp_path / "b.png"
    )
    assert colour_share(sure, figures.BLUE) < colour_share(honest, figures.BLUE)
    assert colour_share(sure, figures.ORANGE) > colour_share(honest, figures.ORANGE)


def test_pareto_draws_dominated_points_grey_and_skips_nan(tmp_path):
    alone = [("a", 1.0, 0.5), ("lost", math.nan, 0.9), ("broken", 2.0, math.nan)]
    first = figures.pareto(alone, tmp_path / "alone.png")
    second = figures.pareto([*alone, ("beaten", 30.0, 0.4)], tmp_path / "beaten.png")
    assert colour_share(first, figures.GREY) < colour_share(second, figures.GREY)
    assert figures.pareto([], tmp_path / "empty.png").is_file()
    assert figures.pareto([(f"run {i}", 1.0 + i, i / 50) for i in range(40)], tmp_path / "many.png").is_file()


@pytest.mark.parametrize("seed", range(3))
def test_pareto_labels_of_a_crowded_front_cover_nothing(tmp_path, seed, monkeypatch):
    """Eighteen points lie close together, six of them on the front. Labels cover neither points nor labels."""
    seen = {}

    def label_and_record(axes, points, best):
        label_points(axes, points, best)
        for text in axes.texts:
            text.get_window_extent()  # moves the text to its place
        seen["names"] = {text.get_text(): Text.get_window_extent(text) for text in axes.texts}
        seen["spots"] = axes.transData.transform([point[1:] for point in points])
        seen["room"] = axes.get_window_extent()

    label_points = figures._label_points
    monkeypatch.setattr(figures, "_label_points", label_and_record)
    crowd = np.random.default_rng(seed).uniform([1, 0.7], [4, 0.8], (12, 2))
    points = [(f"resnet18d_quarter openvino {i}", cost, value) for i, (cost, value) in enumerate(crowd)]
    points += [(f"front {i}", 0.9 + 0.2 * i, 0.81 + 0.003 * i) for i in range(6)]
    figures.pareto(points, tmp_path / "crowd.png")
    assert sum(name.startswith("front") for name in seen["names"]) == 6
    assert not any(a.overlaps(b) for a, b in combinations(seen["names"].values(), 2))
    for box in seen["names"].values():
        assert not any(box.contains(*spot) for spot in seen["spots"])
        assert seen["room"].x0 <= box.x0 < box.x1 <= seen["room"].x1


def test_confusion_matrix_draws_any_script_without_a_warning(tmp_path):
    assert figures.confusion_matrix(np.eye(2, dtype=int), ["플라스틱", "紙"], tmp_path / "a.png").is_file()


def test_figures_leave_no_global_state():
    import matplotlib

    assert matplotlib.rcParams["text.parse_math"] is True
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
