"""Shared fixtures: a temporary cache, no network, one thread, and a few tiny images."""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests send no requests to the Hugging Face hub
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a second thread slows operations on tiny tensors down

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs with SIGINT ignored. Processes that a test starts would inherit this.
    signal.signal(signal.SIGINT, signal.default_int_handler)

PACKAGES = {"callbacks", "datamodules", "deployment", "lightning_modules", "litesort", "loggers", "reports"}
COLOURS = {"can": (200, 40, 40), "cup": (40, 170, 60), "bag": (50, 60, 210)}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `public_data("trashnet")` unless LITESORT_DATA names a folder that holds it."""
    folder = os.environ.get("LITESORT_DATA")
    for name in (mark.args[0] for mark in item.iter_markers("public_data")):
        if not folder:
            pytest.skip(f"LITESORT_DATA is not set: it names a folder that holds {name}/")
        if not (Path(folder) / name).is_dir():
            pytest.skip(f"LITESORT_DATA={folder} holds no {name}/")


@pytest.fixture(autouse=True)
def plain_logging() -> None:
    """Reset logging to warnings, because libraries that configure logging disable loggers and change levels."""
    logging.getLogger().setLevel(logging.WARNING)
    logging.disable(logging.NOTSET)
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger):
            logger.disabled = False
            if name.partition(".")[0] in PACKAGES:
                logger.propagate = True
                logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The folder of the public data sets, for tests marked `public_data`."""
    return Path(os.environ["LITESORT_DATA"])


@pytest.fixture(scope="session", autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep decoded images of tests out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITESORT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three class folders of 20 JPEGs each, 40 to 90 px. Each class has its own colour: 20 training steps suffice."""
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


@pytest.fixture(scope="session")
def checkpoint(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A litesort checkpoint of a resnet10t trained on `image_folder` at 32 px, written without a Trainer."""
    import torch
    from configs import SMALL_FOLDER, composed
    from trained_resnet import trained_resnet

    from lightning_modules.checkpoint import MODEL_CARD, make_model_card
    from litesort.cli.compose import portable

    classes = sorted(COLOURS)
    folder = tmp_path_factory.mktemp("checkpoint")
    data = (*SMALL_FOLDER, "data.eval_batch_size=8", f"data.root={image_folder}")
    cfg = composed("train", "model=timm", "model.name=resnet10t", *data, f"run_dir={folder}")
    net, *_ = trained_resnet(image_folder, classes)
    resizing = {"size": 32, "resize": "pad"}
    card = make_model_card(net, classes, class_counts=[14] * 3, preprocessing=resizing, config=portable(cfg))
    state = {f"net.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": state, MODEL_CARD: card}, folder / "best.ckpt")
    return folder / "best.ckpt"
