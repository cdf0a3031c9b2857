"""Small images of three classes in folders, and a data module on them."""

import numpy as np
from PIL import Image

from datamodules.datamodule import ImageDataModule
from datamodules.sources.folder import FolderSource
from litesort.settings import group_settings

SIZE = 16
CLASSES = {"bag": 20, "can": 14, "cup": 10}


def noise(folder):
    """Write 44 images of noise, of several sizes, into three class folders of `folder`; returns `folder`."""
    rng = np.random.default_rng(0)
    for name, count in CLASSES.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (*rng.integers(10, 30, 2), 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def data_module(root, cache_dir, **options):
    """A data module on a folder, with small images and batches; `options` replace its settings."""
    source = options.pop("source", None) or FolderSource(root)
    settings = {"size": SIZE, "batch_size": 8, "cache_dir": cache_dir, "num_workers": 0} | options
    return ImageDataModule(source, **group_settings(ImageDataModule, settings))
