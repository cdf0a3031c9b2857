"""The data module in a real Trainer, and built from the configs."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from configs import composed
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from policies import policy
from pytorch_lightning.tuner import Tuner
from tiny_training import tiny_trainer
from toy_images import SIZE, data_module, noise

from datamodules import images
from datamodules.samplers import WeightedSampler
from litesort.cli.build import data_builder
from litesort.errors import DataError


@pytest.fixture
def root(tmp_path):
    return noise(tmp_path / "photos")


@pytest.fixture
def make(tmp_path, root):
    return partial(data_module, root, tmp_path / "cache")


class Probe(pl.LightningModule):
    """A linear model that records its batches."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3 * SIZE * SIZE, 3)
        self.batches = {"train": [], "val": []}

    def step(self, stage, batch):
        images, targets, indices, draws = batch
        assert draws is None
        self.batches[stage].append((images.detach().clone(), indices.tolist()))
        return torch.nn.functional.cross_entropy(self.net(images.flatten(1)), targets)

    def training_step(self, batch, index):
        return self.step("train", batch)

    def validation_step(self, batch, index):
        self.step("val", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def test_trainer_gets_augmented_training_images_in_a_new_order_each_epoch(make, tmp_path):
    data, probe = make(augment=policy(num_ops=0, hflip=1.0)), Probe()
    tiny_trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0).fit(probe, datamodule=data)

    def plain(index):
        return torch.from_numpy(images.load(data.source.file(index), SIZE, "pad")).permute(2, 0, 1).float() / 255

    pixels, indices = probe.batches["train"][0]
    torch.testing.assert_close(pixels[0], plain(indices[0]).flip(2), atol=1 / 255, rtol=0)
    pixels, indices = probe.batches["val"][0]
    torch.testing.assert_close(pixels[0], plain(indices[0]), atol=1e-6, rtol=0)
    steps = len(probe.batches["train"]) // 2
    first, second = (
        [i for _, ids in part for i in ids] for part in (probe.batches["train"][:steps], probe.batches["train"][steps:])
    )
    assert first != second
    assert len(set(first)) == len(first)


def test_lightning_finds_a_batch_size(make, tmp_path):
    data, probe = make(batch_size=2), Probe()
    tuned = tiny_trainer(tmp_path, max_epochs=1)
    found = Tuner(tuned).scale_batch_size(probe, datamodule=data, mode="power", steps_per_trial=1, max_trials=2)
    assert data.batch_size == found > 2
    assert next(iter(data.train_dataloader())).images.shape[0] == found


def configured(kind, **changes):
    """Build the data module of `data=kind` as an entry point does."""
    cfg = composed("train", "run_dir=unused", f"data={kind}", "sampler=weighted", "augment=randaugment", "seed=5")
    return data_builder(OmegaConf.merge(cfg, {"data": changes}).data)()


def test_data_configs_build(tmp_path, root):
    (root / "list.csv").write_text("path,label\ncan/1.png,can\nbag/1.png,bag\n")
    folder = configured("folder", root=str(root), cache_dir=str(tmp_path), size=8)
    assert len(folder.samples) == 44
    assert next(iter(folder.train_dataloader())).images.shape[1:] == (8, 8, 3)
    assert isinstance(folder.train_dataloader().sampler, WeightedSampler)
    assert folder.split_config.seed == folder.train_dataloader().sampler.seed == 5
    assert len(configured("filelist", file=str(root / "list.csv")).samples) == 2
    synthetic = configured("synthetic", cache_dir=str(tmp_path))
    assert len(synthetic.samples) == 1400
    assert synthetic.source.root.is_relative_to(tmp_path)
    for kind, key in (("folder", "data.root=photos"), ("filelist", "data.file=labels.csv")):
        with pytest.raises(InstantiationException) as caught:
            configured(kind)
        assert isinstance(caught.value.__cause__, DataError)
        assert key in str(caught.value.__cause__)
