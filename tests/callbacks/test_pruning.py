"""StructuredPruning: before training, between epochs, with a moving average, and after a resume."""

import functools

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from callbacks.checkpoint import RunCheckpoint
from callbacks.ema import EMA
from callbacks.finetuning import Finetuning
from callbacks.pruning import StructuredPruning
from deployment.complexity import profile
from deployment.latency.benchmark import Times
from lightning_modules import optim
from lightning_modules.backbones.backbone import create_backbone
from lightning_modules.checkpoint import MODEL_CARD, build_net, make_model_card, read_checkpoint
from lightning_modules.classifier import ImageClassifier
from lightning_modules.objectives.base import CrossEntropy
from litesort.errors import ModelError

pytest.importorskip("torch_pruning")

CLASSES = ["glass", "metal", "paper"]
SIZE = 32


class Images(pl.LightningDataModule):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(12, 3, SIZE, SIZE, generator=generator)
        self.batches = [(images[i : i + 4], torch.arange(i, i + 4) % 3, torch.arange(4)) for i in (0, 4, 8)]
        self.train_loaders = 0

    def train_dataloader(self):
        return DataLoader(self.batches, batch_size=None)

    val_dataloader = train_dataloader

    def loader(self, split, shuffle):
        # Taylor pruning needs shuffled batches: in stored order, the first batches hold the first classes only.
        self.train_loaders += (split, shuffle) == ("train", True)
        return self.batches

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch


def module():
    torch.manual_seed(0)
    net = create_backbone("lcnet_050", 3, pretrained=False)
    card = make_model_card(net, CLASSES, preprocessing={"size": SIZE, "resize": "pad"})
    return ImageClassifier(
        net, CrossEntropy(), functools.partial(optim.configure_optimizer, lr=0.01), CLASSES, model_card=card
    )


def pruning(**settings):
    return StructuredPruning(**{"clock": lambda net, original, size: Times(0.5, 2.0, 4.0), **settings})


@functools.cache
def unpruned_macs():
    return profile(module().net, SIZE)["macs"]


def macs_share(net):
    """Return the MACs of a network relative to the unpruned network."""
    return profile(net, SIZE)["macs"] / unpruned_macs()


def test_run_trains_and_stores_the_pruned_network(make_trainer, tmp_path, capsys):
    classifier = module()
    make_trainer(pruning(macs=0.5), RunCheckpoint(tmp_path), EMA(0.9), epochs=1).fit(classifier, datamodule=Images())
    assert 0.35 < macs_share(classifier.net) <= 0.5
    checkpoint = read_checkpoint(tmp_path / "best.ckpt")
    assert len(checkpoint[MODEL_CARD]["pruning"]) == 1
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        torch.testing.assert_close(build_net(checkpoint)(images), classifier.eval()(images))
    output = " ".join(capsys.readouterr().out.split())
    assert "blocks.5.0.conv_pw" in output
    assert "kept (head): classifier" in output
    assert "latency in openvino, one image: 4.00 ms -> 2.00 ms (0.50 of the unpruned)" in output


def test_pruning_without_speedup_prints_a_note(make_trainer, capsys):
    slow = pruning(macs=0.7, clock=lambda net, original, size: Times(1.1, 1.1, 1.0))
    make_trainer(slow, epochs=1).fit(module(), datamodule=Images())
    assert "NOT FASTER" in " ".join(capsys.readouterr().out.split())


def test_latency_target_is_met(make_trainer):
    def params_as_time(net, original, size):
        assert macs_share(original) == 1
        time, reference = (profile(network, size)["params"] for network in (net, original))
        return Times(time / reference, time, reference)

    classifier = module()
    make_trainer(pruning(latency=0.6, clock=params_as_time), epochs=1).fit(classifier, datamodule=Images())
    assert 0.5 < params_as_time(classifier.net, module().net.eval(), SIZE).ratio <= 0.6


def test_taylor_pruning_reads_training_images(make_trainer):
    images, classifier = Images(), module()
    make_trainer(pruning(importance="taylor", batches=2), epochs=1).fit(classifier, datamodule=images)
    assert images.train_loaders == 1
    assert macs_share(classifier.net) <= 0.5


class Record(pl.Callback):
    """Record the share of MACs and the learning rate at the end of each epoch, and check the optimiser."""

    def __init__(self):
        self.shares, self.rates = [], []

    def on_train_epoch_end(self, trainer, pl_module):
        self.shares.append(macs_share(pl_module.net))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        trained = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
        assert trained == {id(p) for p in pl_module.net.parameters()}


class Stop(pl.Callback):
    """Stop after an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch == self.epoch


@pytest.mark.parametrize(("averaged", "stop"), [(False, 2), (True, 1)], ids=["after a step", "averaged, before a step"])
def test_steps_prune_between_epochs_and_resume_to_the_same_network(make_trainer, tmp_path, averaged, stop):
    def run(folder, stop=None, ckpt=None):
        record, callbacks = Record(), [pruning(macs=0.4, steps=2, interval_epochs=2, ckpt=ckpt)]
        callbacks += [EMA(0.5)] if averaged else []
        callbacks += [Stop(stop)] if stop is not None else []
        classifier = module()
        if ckpt is not None:
            classifier.replace_net(build_net(read_checkpoint(ckpt)))
        trainer = make_trainer(*callbacks, RunCheckpoint(folder), record, epochs=4)
        trainer.fit(classifier, datamodule=Images(), ckpt_path=ckpt, weights_only=True)
        return classifier, record

    whole, record = run(tmp_path / "whole")
    assert [share > 0.5 for share in record.shares] == [True, True, False, False]
    assert record.shares[-1] <= 0.4
    unpruned = Record()
    make_trainer(unpruned, epochs=4).fit(module(), datamodule=Images())
    assert record.rates == pytest.approx(unpruned.rates)  # a pruning step does not change the schedule
    checkpoint = read_checkpoint(tmp_path / "whole" / "best.ckpt")
    assert len(checkpoint[MODEL_CARD]["pruning"]) == 2  # the best epoch since the last step
    run(tmp_path / "stopped", stop=stop)
    resumed, _ = run(tmp_path / "stopped", ckpt=tmp_path / "stopped" / "last.ckpt")
    torch.testing.assert_close(resumed.net.state_dict(), whole.net.state_dict(), rtol=0, atol=0)


def test_frozen_blocks_stay_frozen_after_a_pruning_step(make_trainer):
    classifier = module()
    make_trainer(pruning(steps=2, interval_epochs=1), Finetuning(1, 0), epochs=2).fit(classifier, datamodule=Images())
    assert len(classifier.net.pruning) == 2
    assert torch.equal(classifier.net.net.conv_stem.weight, module().net.net.conv_stem.weight)
    assert not torch.equal(classifier.net.net.classifier.bias, module().net.net.classifier.bias)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"macs": 1.0}, r"prune\.macs=1\.0 is invalid"),
        ({"macs": None}, "has no target"),
        ({"latency": 0.0}, r"prune\.latency=0\.0"),
        ({"importance": "luck"}, "prune.importance=luck"),
        ({"scope": "local"}, "prune.scope=local"),
        ({"round_to": 0}, "prune.round_to=0"),
        ({"steps": 0}, "prune.steps=0"),
    ],
)
def test_invalid_settings_raise_model_error(settings, message):
    with pytest.raises(ModelError, match=message) as error:
        StructuredPruning(**settings)
    assert "\n" not in str(error.value)


def test_steps_beyond_the_last_epoch_raise_model_error(make_trainer):
    with pytest.raises(ModelError, match=r"prune\.steps=3 with prune\.interval_epochs=2 needs more than 4 epochs"):
        make_trainer(pruning(steps=3, interval_epochs=2), epochs=4).fit(module(), datamodule=Images())


def test_target_out_of_reach_raises_model_error(make_trainer):
    with pytest.raises(ModelError, match=r"prune\.macs=0\.001 is out of reach"):
        make_trainer(pruning(macs=0.001), epochs=1).fit(module(), datamodule=Images())
