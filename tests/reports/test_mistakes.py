import base64
import io
import json
from functools import partial

import numpy as np
import pytest
from PIL import Image
from torch import nn

from lightning_modules.backbones.grad_cam import heat_maps
from reports.mistakes import worst_mistakes, write_mistakes
from reports.run_folder import read_mistakes

PROBABILITIES = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7], [0.45, 0.55]])
TARGETS = np.array([0, 0, 0, 1, 0])
FILES = [f"{i}.jpg" for i in range(5)]


def image(row, side):
    return np.full((side, side, 3), 40 * row, np.uint8)


def decode(url):
    """Open the image of a `data:` URL."""
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_worst_mistakes_are_sorted_by_confidence():
    found = worst_mistakes(PROBABILITIES, TARGETS, ["a", "b"], FILES, 9)
    assert [mistake.row for mistake in found] == [2, 1, 4]
    assert found[0] == (2, "2.jpg", "a", "b", 0.8)
    assert worst_mistakes(PROBABILITIES, TARGETS, ["a", "b"], FILES, 2) == found[:2]


@pytest.mark.parametrize("explained", [True, False])
def test_read_mistakes_reads_the_file_of_write_mistakes(tmp_path, make_module, explained):
    path = write_mistakes(
        tmp_path,
        PROBABILITIES,
        TARGETS,
        ["a", "b"],
        FILES,
        image,
        size=16,
        heat_maps=partial(heat_maps, make_module().net) if explained else None,
        count=2,
    )
    first, second = read_mistakes(tmp_path)
    assert path == tmp_path / "mistakes.json"
    assert (first["file"], first["label"], first["prediction"], first["confidence"]) == ("2.jpg", "a", "b", 0.8)
    assert second["file"] == "1.jpg"
    stored = decode(first["image"])
    assert stored.size == (128, 128)
    assert abs(stored.getpixel((64, 64))[0] - 80) <= 4
    if explained:
        assert decode(first["map"]).size == (24, 24)
    else:
        assert first["map"] is None


def test_write_mistakes_without_mistakes(tmp_path):
    assert write_mistakes(tmp_path, PROBABILITIES, TARGETS, ["a", "b"], FILES, image, size=16, count=0) is None
    assert not list(tmp_path.iterdir())
    correct = PROBABILITIES.argmax(1)
    path = write_mistakes(tmp_path, PROBABILITIES, correct, ["a", "b"], FILES, image, size=16)
    assert json.loads(path.read_text())["mistakes"] == []


def test_network_without_heat_maps_still_has_mistakes(tmp_path, capsys):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    write_mistakes(
        tmp_path, PROBABILITIES, TARGETS, ["a", "b"], FILES, image, size=16, heat_maps=partial(heat_maps, flat), count=1
    )
    assert read_mistakes(tmp_path)[0]["map"] is None
    assert "no heat maps" in capsys.readouterr().out
