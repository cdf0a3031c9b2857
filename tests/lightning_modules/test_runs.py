"""ImageClassifier in a Lightning Trainer: checkpoints, weight averaging, resume, LR finder, clipping, two processes."""

import functools

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging
from pytorch_lightning.tuner import Tuner
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from lightning_modules.backbones.backbone import create_backbone
from lightning_modules.checkpoint import MODEL_CARD, build_net, read_checkpoint
from lightning_modules.objectives.base import CrossEntropy
from lightning_modules.optim import configure_optimizer


def _uneven_ranks(tiny) -> pl.LightningDataModule:
    """Build a data module whose ranks have different numbers of images."""

    class UnevenRanks(pl.LightningDataModule):
        def val_dataloader(self):
            batches = [
                *tiny.loader(3, seed=1).dataset,
                tiny.Batch(*(t[:3] for t in tiny.loader(1, seed=5).dataset[0][:3])),
            ]
            return DataLoader(batches[self.trainer.global_rank :: self.trainer.world_size], batch_size=None)

    return UnevenRanks()


def test_fit_checkpoint_rebuilds_network(tiny, tmp_path):
    net = create_backbone("lcnet_050", 3, pretrained=False)
    module = tiny.module(net, lr=1e-3)
    best = ModelCheckpoint(tmp_path, filename="best", monitor="val/f1_macro", mode="max", enable_version_counter=False)
    trainer = tiny.trainer(tmp_path, max_epochs=1, enable_checkpointing=True, callbacks=[best])
    images = [tiny.Batch(torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]), torch.arange(4))]
    trainer.fit(module, DataLoader(images, batch_size=None), DataLoader(images, batch_size=None))
    checkpoint = read_checkpoint(tmp_path / "best.ckpt")
    assert checkpoint[MODEL_CARD] == module.model_card
    assert all(key.startswith("net.") for key in checkpoint["state_dict"])
    with torch.inference_mode():
        torch.testing.assert_close(build_net(checkpoint)(images[0].images), module.eval()(images[0].images))


def test_fit_checkpoint_has_averaged_weights(tiny, tmp_path):
    averaging = WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(0.5))
    module = tiny.module()
    trainer = tiny.trainer(tmp_path, max_epochs=2, callbacks=[averaging])
    trainer.fit(module, tiny.loader(), tiny.loader())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    state = read_checkpoint(tmp_path / "a.ckpt")["state_dict"]
    assert set(state) == {"net.mean", "net.std", "net.net.fc.weight", "net.net.fc.bias"}
    torch.testing.assert_close(state["net.net.fc.weight"], module.net.net.fc.weight)


def test_fit_resume_equals_uninterrupted_run(tiny, tmp_path):
    whole = tiny.module()
    tiny.trainer(tmp_path, max_epochs=4).fit(whole, tiny.loader(), tiny.loader())

    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.should_stop = trainer.current_epoch == 1

    first = tiny.trainer(tmp_path, max_epochs=4, callbacks=[Stop()])
    first.fit(tiny.module(), tiny.loader(), tiny.loader())
    first.save_checkpoint(tmp_path / "last.ckpt")
    resumed = tiny.module()
    tiny.trainer(tmp_path, max_epochs=4).fit(
        resumed, tiny.loader(), tiny.loader(), ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    torch.testing.assert_close(resumed.net.state_dict(), whole.net.state_dict(), rtol=0, atol=0)


def test_fit_steps_schedule_with_optimiser(tiny, tmp_path):
    module = tiny.module(lr=0.1)
    trainer = tiny.trainer(tmp_path, max_epochs=3, accumulate_grad_batches=2)
    trainer.fit(module, tiny.loader(steps=6), tiny.loader())
    assert trainer.global_step == 9
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 9
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_fit_trains_parameters_of_objective(tiny, tmp_path):
    class Scaled(CrossEntropy):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def loss(self, logits, targets):
            return super().loss(logits * self.scale, targets)

    objective = Scaled()
    tiny.trainer(tmp_path, max_epochs=1).fit(tiny.module(objective=objective), tiny.loader(), tiny.loader())
    assert objective.scale != 1


def test_lr_finder_runs_until_divergence(tiny, tmp_path):
    module = tiny.module(lr=1e-3)
    trainer = tiny.trainer(tmp_path, max_epochs=4)
    search = functools.partial(Tuner(trainer).lr_find, module, tiny.loader(steps=40), tiny.loader(), num_training=30)
    search(min_lr=1e-6, max_lr=1e38, early_stop_threshold=None)  # a non-finite loss is no error here
    found = search(min_lr=1e-4, max_lr=1.0)
    assert found is not None
    assert module.lr == found.suggestion() != 1e-3
    trainer.fit(module, tiny.loader(), tiny.loader())
    assert trainer.lr_scheduler_configs[0].scheduler.base_lrs[0] == pytest.approx(module.lr)


def test_fit_clips_with_fused_optimiser_except_in_mixed_precision(tiny, tmp_path, monkeypatch):
    module = tiny.module()
    trainer = tiny.trainer(tmp_path, max_epochs=1, gradient_clip_val=0.1)
    trainer.fit(module, tiny.loader(), tiny.loader())
    assert trainer.optimizers[0].defaults["fused"]
    requested = {}
    module._optimizer = lambda net, **settings: requested.update(settings) or configure_optimizer(net, **settings)
    monkeypatch.setattr(type(trainer), "precision", "16-mixed")
    module.configure_optimizers()
    assert not requested["fused"]


def test_validate_two_processes_equal_one(tiny, tmp_path):
    module, data = tiny.module(), _uneven_ranks(tiny)
    one = tiny.trainer(tmp_path).validate(module, data, verbose=False)[0]
    two = tiny.trainer(tmp_path, strategy="ddp_fork", devices=2, use_distributed_sampler=False)
    both = two.validate(module, data, verbose=False)[0]
    assert both == pytest.approx(one, abs=1e-6)
