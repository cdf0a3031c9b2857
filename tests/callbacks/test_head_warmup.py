"""Head first, then everything."""

import copy

import pytest
import pytorch_lightning as pl
import torch

from callbacks.checkpoint import RunCheckpoint
from callbacks.head_warmup import HeadWarmup
from lightning_modules import ModelError


class Snapshots(pl.Callback):
    """The network's state at the end of each epoch."""

    def __init__(self):
        self.states = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.states.append(copy.deepcopy(pl_module.net.net.state_dict()))


def changed(before, after):
    return {key for key in before if not torch.equal(before[key], after[key])}


def test_body_is_frozen_and_then_released(make_module, make_trainer, data):
    module, snapshots = make_module(), Snapshots()
    start = copy.deepcopy(module.net.net.state_dict())
    make_trainer(HeadWarmup(2), snapshots, epochs=3).fit(module, datamodule=data)
    assert changed(start, snapshots.states[1]) == {"fc.weight", "fc.bias"}
    assert changed(snapshots.states[1], snapshots.states[2]) == set(start)


def test_right_after_a_resume(tmp_path, make_module, make_trainer, data):
    make_trainer(HeadWarmup(2), RunCheckpoint(str(tmp_path)), epochs=1).fit(make_module(), datamodule=data)
    module, snapshots = make_module(), Snapshots()
    start = copy.deepcopy(module.net.net.state_dict())
    make_trainer(HeadWarmup(2), snapshots, RunCheckpoint(str(tmp_path)), epochs=3).fit(
        module, datamodule=data, ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    assert changed(start, snapshots.states[0]) == {"fc.weight", "fc.bias"}
    assert "conv.weight" in changed(snapshots.states[0], snapshots.states[1])


def test_does_nothing_is_an_error():
    with pytest.raises(ModelError, match="epochs=0"):
        HeadWarmup(0)


def test_network_without_a_head(make_trainer, data):
    class Plain(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(2, 2)

        def training_step(self, batch, batch_idx): ...

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1.0)

    with pytest.raises(ModelError, match="head_parameters"):
        make_trainer(HeadWarmup(1)).fit(Plain(), data.train_dataloader())
