"""Finetuning: the first epochs train the head only, and the first blocks stay frozen for the whole run."""

import copy
import functools

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from callbacks.checkpoint import RunCheckpoint
from callbacks.ema import EMA
from callbacks.finetuning import Finetuning
from lightning_modules import optim
from lightning_modules.backbones.backbone import Backbone, create_backbone
from lightning_modules.classifier import ImageClassifier
from lightning_modules.objectives.base import CrossEntropy
from litesort.errors import ModelError

HEAD = {"fc.weight", "fc.bias"}


class Snapshots(pl.Callback):
    """Store the state of the network at the end of each epoch."""

    def __init__(self):
        self.states = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.states.append(copy.deepcopy(pl_module.net.net.state_dict()))


def changed(before, after):
    return {key for key in before if not torch.equal(before[key], after[key])}


def timm_module(name="lcnet_050", **settings):
    torch.manual_seed(0)
    kwargs = {"img_size": 16, "depth": 2} if "deit" in name else None
    net = create_backbone(name, 3, pretrained=False, drop_path_rate=0.1, kwargs=kwargs)
    settings = {"lr": 0.01, "warmup_epochs": 0.0, **settings}
    return ImageClassifier(
        net, CrossEntropy(), functools.partial(optim.configure_optimizer, **settings), ["a", "b", "c"]
    )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_body_is_frozen_during_head_warmup_and_trained_after_it(make_module, make_trainer, data, optimizer):
    module, snapshots = make_module(name=optimizer), Snapshots()
    start = copy.deepcopy(module.net.net.state_dict())
    make_trainer(Finetuning(0, 2), snapshots, epochs=3).fit(module, datamodule=data)
    assert changed(start, snapshots.states[1]) == HEAD
    # A bias before a BatchNorm has no gradient: the mean that the BatchNorm subtracts includes it.
    assert changed(snapshots.states[1], snapshots.states[2]) >= set(start) - {"conv.bias"}


def test_resumed_run_reaches_the_same_weights(tmp_path, make_trainer, data):
    def fit(folder, epochs, ckpt=None):
        # constant, because a cosine depends on the number of epochs
        module = timm_module(layer_decay=0.8, schedule="constant")
        callbacks = (Finetuning(1, 2), EMA(0.9), RunCheckpoint(str(folder)))
        trainer = make_trainer(*callbacks, epochs=epochs)
        torch.manual_seed(1)
        trainer.fit(module, datamodule=data, ckpt_path=ckpt, weights_only=True)
        return torch.load(folder / "last.ckpt", weights_only=True)

    pl.seed_everything(0, verbose=False)
    torch.use_deterministic_algorithms(True)
    try:
        whole = fit(tmp_path / "whole", 3)
        fit(tmp_path / "parts", 1)
        resumed = fit(tmp_path / "parts", 3, tmp_path / "parts" / "last.ckpt")
    finally:
        torch.use_deterministic_algorithms(False)
    for key in ("state_dict", "current_model_state", "optimizer_states"):
        torch.testing.assert_close(resumed[key], whole[key], rtol=0, atol=0)


@pytest.mark.parametrize("order", ["before", "after"])
def test_frozen_blocks_do_not_change_in_any_callback_order(make_trainer, data, order):
    module, others = timm_module(), [EMA(0.9), Snapshots()]
    start = copy.deepcopy(module.net.net.state_dict())
    callbacks = [Finetuning(2, 1), *others] if order == "before" else [*others, Finetuning(2, 1)]
    make_trainer(*callbacks, epochs=3).fit(module, datamodule=data)
    frozen = ("conv_stem.", "bn1.", "blocks.0.", "blocks.1.")
    assert changed(start, module.net.net.state_dict()) == {key for key in start if not key.startswith(frozen)}


def test_frozen_parameters_are_not_in_the_optimiser(make_trainer):
    module = timm_module("deit_tiny_distilled_patch16_224")
    trainer = make_trainer(Finetuning(1, 0), epochs=1)
    module.net.net.set_distilled_training(False)
    batch = (torch.rand(4, 3, 16, 16), torch.arange(4) % 3, torch.arange(4))
    loader = DataLoader([batch], batch_size=None)
    trainer.fit(module, loader, loader)
    optimised = {id(parameter) for group in trainer.optimizers[0].param_groups for parameter in group["params"]}
    left_out = {name.split(".")[0] for name, p in module.net.net.named_parameters() if id(p) not in optimised}
    assert left_out == {"cls_token", "dist_token", "pos_embed", "patch_embed", "blocks"}
    assert not any(module.training for module in module.net.net.blocks[0].modules())
    assert id(module.net.net.blocks[1].norm1.weight) in optimised


@pytest.mark.parametrize("settings", [(0, 0), (-1, 1), (1, -1)])
def test_invalid_settings_raise_model_error(settings):
    with pytest.raises(ModelError, match=r"^callbacks\.finetuning") as error:
        Finetuning(*settings)
    assert "\n" not in str(error.value)


def test_network_without_trainable_body_is_refused(make_trainer, data):
    with pytest.raises(ModelError, match="frozen_blocks=9 leaves nothing of the body"):
        make_trainer(Finetuning(9), epochs=1).fit(timm_module("resnet10t"), datamodule=data)


def test_network_without_required_methods_is_refused(make_module, make_trainer, data):
    class Plain(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(2, 2)

        def training_step(self, batch, batch_idx): ...

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1.0)

    with pytest.raises(ModelError, match="head_parameters"):
        make_trainer(Finetuning()).fit(Plain(), data.train_dataloader())
    module = make_module()
    assert isinstance(module.net, Backbone)
    with pytest.raises(ModelError, match="group_matcher"):
        make_trainer(Finetuning(1)).fit(module, datamodule=data)
