import base64
import io
import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from lightning_modules.backbones.grad_cam import heat_maps
from reports.mistakes import most_confident, write_mistakes
from reports.run_folder import read_mistakes

PROBABILITIES = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7], [0.45, 0.55]])
TARGETS = np.array([0, 0, 0, 1, 0])
FILES = [f"{i}.jpg" for i in range(5)]


def photo(row, side):
    return np.full((side, side, 3), 40 * row, np.uint8)


def opened(url):
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_the_surest_mistakes_come_first():
    assert most_confident(PROBABILITIES, TARGETS, 9) == [2, 1, 4]
    assert most_confident(PROBABILITIES, TARGETS, 2) == [2, 1]


@pytest.mark.parametrize("exported", [False, True])
def test_the_page_reads_what_is_written(tmp_path, make_module, exported):
    net = None if exported else make_module().net
    path = write_mistakes(
        tmp_path,
        PROBABILITIES,
        TARGETS,
        ["a", "b"],
        FILES,
        photo,
        size=16,
        heat_maps=net and partial(heat_maps, net),
        count=2,
    )
    first, second = read_mistakes(tmp_path)
    assert path == tmp_path / "mistakes.json"
    assert (first["file"], first["label"], first["prediction"], first["confidence"]) == ("2.jpg", "a", "b", 0.8)
    assert second["file"] == "1.jpg"
    picture = opened(first["photo"])
    assert picture.size == (128, 128)
    assert abs(picture.getpixel((64, 64))[0] - 80) <= 4
    if exported:
        assert first["map"] is None
    else:
        assert opened(first["map"]).size == (24, 24)


def test_without_a_mistake_or_a_wish_for_them(tmp_path):
    assert write_mistakes(tmp_path, PROBABILITIES, TARGETS, ["a", "b"], FILES, photo, size=16, count=0) is None
    assert not list(tmp_path.iterdir())
    right = PROBABILITIES.argmax(1)
    path = write_mistakes(tmp_path, PROBABILITIES, right, ["a", "b"], FILES, photo, size=16)
    assert json.loads(path.read_text())["mistakes"] == []


def test_a_net_that_cannot_be_looked_into_costs_no_result(tmp_path, capsys):
    from torch import nn

    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    write_mistakes(
        tmp_path, PROBABILITIES, TARGETS, ["a", "b"], FILES, photo, size=16, heat_maps=partial(heat_maps, flat), count=1
    )
    assert read_mistakes(tmp_path)[0]["map"] is None
    assert "no heat maps" in capsys.readouterr().out
