"""What all tests share: a cache of their own, no network, one thread, a few tiny photos."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test waits for a hub
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: a second thread only costs

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so, and what a test starts would inherit it: Ctrl-C would do nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)

COLOURS = {"can": (200, 40, 40), "cup": (40, 170, 60), "bag": (50, 60, 210)}


@pytest.fixture(scope="session", autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep decoded photos of tests out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("LITESORT_CACHE")
    os.environ["LITESORT_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["LITESORT_CACHE"]
    else:
        os.environ["LITESORT_CACHE"] = before


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three class folders of 20 JPEGs each, 40 to 90 px; colour tells the class, so that a net learns it at once."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for number in range(20):
            width, height = (int(side) for side in rng.integers(40, 90, 2))
            image = Image.fromarray(rng.integers(90, 160, (height, width, 3), dtype=np.uint8))
            box = [int(width * 0.2), int(height * 0.2), int(width * 0.8), int(height * 0.8)]
            ImageDraw.Draw(image).ellipse(box, fill=tuple(int(c + rng.integers(-20, 20)) for c in colour))
            image.save(root / name / f"{name}{number}.jpg", quality=90)
    return root
