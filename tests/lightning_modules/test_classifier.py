import csv
import functools
import math
from typing import NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.tuner import Tuner
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from lightning_modules import ModelError
from lightning_modules.backbones import Backbone, create_backbone
from lightning_modules.checkpoint import RECORD, build_net, read_checkpoint
from lightning_modules.classifier import WasteClassifier
from lightning_modules.objectives import CrossEntropy, Objective
from lightning_modules.optim import configure

CLASSES = ["Metal", "Paper", "Plastic"]


class Batch(NamedTuple):
    images: Tensor
    targets: Tensor
    indices: Tensor
    draws: None = None


class Colour(nn.Module):
    """The smallest network: the mean colour decides."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def get_classifier(self):
        return self.fc

    def forward(self, images):
        return self.fc(images.mean(dim=(2, 3)))


def _backbone() -> Backbone:
    torch.manual_seed(0)
    return Backbone(Colour(), name="colour", num_classes=3)


def _loader(steps: int = 4, seed: int = 0, soft: bool = False) -> DataLoader:
    """Photos whose strongest colour is their class."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for i in range(steps):
        targets = torch.randint(3, (8,), generator=generator)
        images = 0.5 * torch.rand(8, 3, 8, 8, generator=generator)
        images[torch.arange(8), targets] += 0.4
        y = torch.nn.functional.one_hot(targets, 3).float() if soft else targets
        batches.append(Batch(images, y, torch.arange(8) + 8 * i))
    return DataLoader(batches, batch_size=None)


def _module(net: Backbone | None = None, objective: Objective | None = None, lr: float = 0.1, **settings):
    return WasteClassifier(
        net or _backbone(), objective or CrossEntropy(), functools.partial(configure, lr=lr), CLASSES, **settings
    )


def _trainer(tmp_path, **settings) -> pl.Trainer:
    defaults = {
        "accelerator": "cpu",
        "max_epochs": 3,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "default_root_dir": tmp_path,
    }
    return pl.Trainer(**(defaults | settings))


def test_it_learns_and_reports_what_it_promises(tmp_path):
    module, trainer = _module(), _trainer(tmp_path, max_epochs=8)
    trainer.fit(module, _loader(soft=True), _loader(seed=1))
    fitted = {k: v.item() for k, v in trainer.callback_metrics.items()}
    judged = {"loss", "f1_macro", "accuracy_micro", "auroc_macro", "ece", *(f"f1/{name}" for name in CLASSES)}
    assert set(fitted) == {"train/loss"} | {f"val/{name}" for name in judged}
    assert fitted["val/f1_macro"] > 0.9
    tested = trainer.test(module, _loader(seed=1), verbose=False)[0]
    assert tested == pytest.approx({f"test/{name}": fitted[f"val/{name}"] for name in judged}, abs=1e-6)
    assert module.metrics["test"].confusion.sum() == 32
    assert module.metrics["val"].confusion.trace() >= 29


def test_the_epochs_losses_are_means_over_photos(tmp_path):
    module, trainer = _module(), _trainer(tmp_path)
    uneven = [*_loader(2).dataset, Batch(*(t[:3] for t in _loader(1, seed=5).dataset[0][:3]))]
    loss = trainer.validate(module, DataLoader(uneven, batch_size=None), verbose=False)[0]["val/loss"]
    images = torch.cat([b.images for b in uneven])
    targets = torch.cat([b.targets for b in uneven])
    assert loss == pytest.approx(nn.functional.cross_entropy(module(images), targets).item(), abs=1e-5)


def test_an_objectives_other_terms_are_logged_by_name(tmp_path):
    class Two(CrossEntropy):
        def forward(self, output, targets, images=None):
            assert images is not None
            terms = super().forward(output, targets)
            return {"loss": terms["loss"] + 1, "hard": terms["loss"], "soft": torch.ones(())}

    trainer = _trainer(tmp_path, max_epochs=1)
    trainer.fit(_module(objective=Two()), _loader(), _loader())
    seen = trainer.callback_metrics
    for stage in ("train", "val"):
        assert seen[f"{stage}/soft"] == pytest.approx(1)
        assert seen[f"{stage}/loss"] == pytest.approx(seen[f"{stage}/hard"].item() + 1, abs=1e-5)


def test_a_checkpoint_of_a_real_run_rebuilds_the_network(tmp_path):
    net = create_backbone("lcnet_050", 3, pretrained=False)
    module = _module(net, lr=1e-3)
    keep = ModelCheckpoint(tmp_path, filename="best", monitor="val/f1_macro", mode="max", enable_version_counter=False)
    trainer = _trainer(tmp_path, max_epochs=1, enable_checkpointing=True, callbacks=[keep])
    photos = [Batch(torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]), torch.arange(4))]
    trainer.fit(module, DataLoader(photos, batch_size=None), DataLoader(photos, batch_size=None))
    checkpoint = read_checkpoint(tmp_path / "best.ckpt")
    assert checkpoint[RECORD] == module.state_record
    assert all(key.startswith("net.") for key in checkpoint["state_dict"])
    with torch.inference_mode():
        torch.testing.assert_close(build_net(checkpoint)(photos[0].images), module.eval()(photos[0].images))


def test_averaged_weights_are_what_a_checkpoint_ships(tmp_path):
    averaging = WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(0.5))
    module = _module()
    trainer = _trainer(tmp_path, max_epochs=2, callbacks=[averaging])
    trainer.fit(module, _loader(), _loader())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    state = read_checkpoint(tmp_path / "a.ckpt")["state_dict"]
    assert set(state) == {"net.mean", "net.std", "net.net.fc.weight", "net.net.fc.bias"}
    torch.testing.assert_close(state["net.net.fc.weight"], module.net.net.fc.weight)


def test_resuming_gives_the_numbers_of_the_uninterrupted_run(tmp_path):
    whole = _module()
    _trainer(tmp_path, max_epochs=4).fit(whole, _loader(), _loader())

    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.should_stop = trainer.current_epoch == 1

    first = _trainer(tmp_path, max_epochs=4, callbacks=[Stop()])
    first.fit(_module(), _loader(), _loader())
    first.save_checkpoint(tmp_path / "last.ckpt")
    resumed = _module()
    _trainer(tmp_path, max_epochs=4).fit(
        resumed, _loader(), _loader(), ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    torch.testing.assert_close(resumed.net.state_dict(), whole.net.state_dict(), rtol=0, atol=0)


def test_predictions_are_probabilities_with_their_rows(tmp_path):
    outputs = _trainer(tmp_path).predict(_module(), _loader(2))
    probabilities = torch.cat([o["probabilities"] for o in outputs])
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(16))
    assert torch.cat([o["indices"] for o in outputs]).tolist() == list(range(16))


@pytest.mark.parametrize("trouble", ["photo", "rate"])
def test_a_broken_loss_ends_the_run_with_step_and_mend(tmp_path, trouble):
    loader, lr = _loader(), 0.1
    if trouble == "photo":
        loader.dataset[2].images.fill_(math.nan)
    else:
        lr = 1e38
    with pytest.raises(ModelError, match=r"at step \d: lower optimizer\.lr=.*gradient_clip_val") as error:
        _trainer(tmp_path).fit(_module(lr=lr), loader, _loader())
    if trouble == "photo":
        assert "at step 2:" in str(error.value)


def test_the_curve_has_a_point_every_n_steps_and_no_step_is_logged_otherwise(tmp_path, monkeypatch):
    module = _module()
    logger = CSVLogger(tmp_path, name="", version="")
    trainer = _trainer(tmp_path, max_epochs=2, log_every_n_steps=3, logger=logger)
    logged = []
    monkeypatch.setattr(module, "log", lambda name, *_, **__: logged.append(name))
    trainer.fit(module, _loader(steps=9), _loader())
    with (tmp_path / "metrics.csv").open() as file:
        points = [row for row in csv.DictReader(file) if row["train/loss_step"]]
    assert [int(row["step"]) for row in points] == [2, 5, 8, 11, 14, 17]
    assert [name for name in logged if name.startswith("train")] == ["train/loss"] * 2
    assert trainer.progress_bar_metrics["loss"] == pytest.approx(float(points[-1]["train/loss_step"]), abs=1e-6)


def test_the_schedule_steps_with_the_optimiser_over_the_whole_run(tmp_path):
    module = _module(lr=0.1)
    trainer = _trainer(tmp_path, max_epochs=3, accumulate_grad_batches=2)
    trainer.fit(module, _loader(steps=6), _loader())
    assert trainer.global_step == 9
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 9
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_an_objectives_own_parameters_are_trained(tmp_path):
    class Scaled(CrossEntropy):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def loss(self, logits, targets):
            return super().loss(logits * self.scale, targets)

    objective = Scaled()
    _trainer(tmp_path, max_epochs=1).fit(_module(objective=objective), _loader(), _loader())
    assert objective.scale != 1


def test_lightnings_rate_finder_works_and_may_diverge(tmp_path):
    module = _module(lr=1e-3)
    trainer = _trainer(tmp_path, max_epochs=4)
    search = functools.partial(Tuner(trainer).lr_find, module, _loader(steps=40), _loader(), num_training=30)
    search(min_lr=1e-6, max_lr=1e38, early_stop_threshold=None)  # the loss breaks, as it may here
    found = search(min_lr=1e-4, max_lr=1.0)
    assert found is not None
    assert module.lr == found.suggestion() != 1e-3
    trainer.fit(module, _loader(), _loader())
    assert trainer.lr_scheduler_configs[0].scheduler.base_lrs[0] == pytest.approx(module.lr)


def test_gradients_are_clipped_beside_fused_steps_and_fused_gives_way_to_scaled_clipping(tmp_path, monkeypatch):
    module = _module()
    trainer = _trainer(tmp_path, max_epochs=1, gradient_clip_val=0.1)
    trainer.fit(module, _loader(), _loader())
    assert trainer.optimizers[0].defaults["fused"]
    asked = {}
    module._optimizer = lambda net, **settings: asked.update(settings) or configure(net, **settings)
    monkeypatch.setattr(type(trainer), "precision", "16-mixed")
    module.configure_optimizers()
    assert not asked["fused"]


def test_images_come_channels_last_and_the_network_too(tmp_path):
    seen = []

    class Look(Colour):
        def forward(self, images):
            seen.append(images.is_contiguous(memory_format=torch.channels_last))
            return super().forward(images)

    module = _module(Backbone(Look(), name="look", num_classes=3))
    _trainer(tmp_path, max_epochs=1).fit(module, _loader(), _loader())
    assert seen
    assert all(seen)


def test_compiling_keeps_the_names(monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    module = _module(compile=True)
    assert compiled == [module.net]
    assert set(module.state_dict()) == {"net.mean", "net.std", "net.net.fc.weight", "net.net.fc.bias"}


def test_what_does_not_fit_is_one_line(tmp_path):
    with pytest.raises(ModelError, match="3 classes and the data 2"):
        WasteClassifier(_backbone(), CrossEntropy(), functools.partial(configure), ["a", "b"])
    with pytest.raises(ModelError, match=r"litesort\.config is a Tensor"):
        _module(state_record={"config": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"trainer\.max_epochs"):
        _trainer(tmp_path, max_epochs=-1).fit(_module(), _loader(), _loader())


class _Shares(pl.LightningDataModule):
    """Each rank judges its own batches, of uneven number of photos."""

    def val_dataloader(self):
        batches = [*_loader(3, seed=1).dataset, Batch(*(t[:3] for t in _loader(1, seed=5).dataset[0][:3]))]
        return DataLoader(batches[self.trainer.global_rank :: self.trainer.world_size], batch_size=None)


def test_two_processes_report_what_one_does(tmp_path):
    module, shares = _module(), _Shares()
    one = _trainer(tmp_path).validate(module, shares, verbose=False)[0]
    two = _trainer(tmp_path, strategy="ddp_fork", devices=2, use_distributed_sampler=False)
    both = two.validate(module, shares, verbose=False)[0]
    assert both == pytest.approx(one, abs=1e-6)
