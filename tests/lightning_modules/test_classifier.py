import csv
import functools
import math

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from lightning_modules.backbones.backbone import Backbone
from lightning_modules.classifier import ImageClassifier
from lightning_modules.objectives.base import CrossEntropy
from lightning_modules.optim import configure_optimizer
from litesort.errors import ModelError


def test_classifier_learns_and_logs_metrics(tiny, tmp_path):
    module, trainer = tiny.module(), tiny.trainer(tmp_path, max_epochs=8)
    trainer.fit(module, tiny.loader(soft=True), tiny.loader(seed=1))
    fitted = {k: v.item() for k, v in trainer.callback_metrics.items()}
    evaluated = {"loss", "f1_macro", "accuracy_micro", "auroc_macro", "ece", *(f"f1/{name}" for name in tiny.CLASSES)}
    assert set(fitted) == {"train/loss"} | {f"val/{name}" for name in evaluated}
    assert fitted["val/f1_macro"] > 0.9
    tested = trainer.test(module, tiny.loader(seed=1), verbose=False)[0]
    assert tested == pytest.approx({f"test/{name}": fitted[f"val/{name}"] for name in evaluated}, abs=1e-6)
    assert module.metrics["test"].confusion.sum() == 32
    assert module.metrics["val"].confusion.trace() >= 29


def test_classifier_epoch_losses_are_means_over_images(tiny, tmp_path):
    module, trainer = tiny.module(), tiny.trainer(tmp_path)
    uneven = [*tiny.loader(2).dataset, tiny.Batch(*(t[:3] for t in tiny.loader(1, seed=5).dataset[0][:3]))]
    loss = trainer.validate(module, DataLoader(uneven, batch_size=None), verbose=False)[0]["val/loss"]
    images = torch.cat([b.images for b in uneven])
    targets = torch.cat([b.targets for b in uneven])
    assert loss == pytest.approx(nn.functional.cross_entropy(module(images), targets).item(), abs=1e-5)


def test_classifier_logs_terms_of_objective(tiny, tmp_path):
    class TwoTerms(CrossEntropy):
        def forward(self, output, targets, images=None):
            assert images is not None
            terms = super().forward(output, targets)
            return {"loss": terms["loss"] + 1, "hard": terms["loss"], "soft": torch.ones(())}

    trainer = tiny.trainer(tmp_path, max_epochs=1)
    trainer.fit(tiny.module(objective=TwoTerms()), tiny.loader(), tiny.loader())
    seen = trainer.callback_metrics
    for stage in ("train", "val"):
        assert seen[f"{stage}/soft"] == pytest.approx(1)
        assert seen[f"{stage}/loss"] == pytest.approx(seen[f"{stage}/hard"].item() + 1, abs=1e-5)


def test_classifier_predict_returns_probabilities_and_indices(tiny, tmp_path):
    outputs = tiny.trainer(tmp_path).predict(tiny.module(), tiny.loader(2))
    probabilities = torch.cat([o["probabilities"] for o in outputs])
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(16))
    assert torch.cat([o["indices"] for o in outputs]).tolist() == list(range(16))


@pytest.mark.parametrize("cause", ["image", "learning rate"])
def test_classifier_stops_with_error_for_non_finite_loss(tiny, tmp_path, cause):
    loader, lr = tiny.loader(), 0.1
    if cause == "image":
        loader.dataset[2].images.fill_(math.nan)
    else:
        lr = 1e38
    with pytest.raises(ModelError, match=r"at step \d: lower optimizer\.lr=.*gradient_clip_val") as error:
        tiny.trainer(tmp_path).fit(tiny.module(lr=lr), loader, tiny.loader())
    if cause == "image":
        assert "at step 2:" in str(error.value)


def test_classifier_logs_step_loss_every_n_steps(tiny, tmp_path, monkeypatch):
    module = tiny.module()
    logger = CSVLogger(tmp_path, name="", version="")
    trainer = tiny.trainer(tmp_path, max_epochs=2, log_every_n_steps=3, logger=logger)
    logged = []
    monkeypatch.setattr(module, "log", lambda name, *_, **__: logged.append(name))
    trainer.fit(module, tiny.loader(steps=9), tiny.loader())
    with (tmp_path / "metrics.csv").open() as file:
        points = [row for row in csv.DictReader(file) if row["train/loss_step"]]
    assert [int(row["step"]) for row in points] == [2, 5, 8, 11, 14, 17]
    assert [name for name in logged if name.startswith("train")] == ["train/loss"] * 2
    assert trainer.progress_bar_metrics["loss"] == pytest.approx(float(points[-1]["train/loss_step"]), abs=1e-6)


def test_classifier_logs_step_loss_once_with_accumulation(tiny, tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    trainer = tiny.trainer(tmp_path, max_epochs=2, accumulate_grad_batches=4, logger=logger)
    trainer.fit(tiny.module(), tiny.loader(steps=8), tiny.loader())
    with (tmp_path / "metrics.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file) if row["train/loss_step"]] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_classifier_trains_in_bf16_with_clipping(tiny, tmp_path, name):
    module = tiny.module(name=name)
    before = module.net.net.fc.weight.detach().clone()
    trainer = tiny.trainer(tmp_path, max_steps=1, precision="bf16-mixed", gradient_clip_val=1.0)
    trainer.fit(module, tiny.loader(), tiny.loader())
    assert not torch.equal(module.net.net.fc.weight, before)


def test_classifier_evaluates_without_autocast(tiny, tmp_path):
    """In bf16-mixed, only training uses autocast. Evaluation is in float32, like in evaluate.py."""
    module, trainer = tiny.module(), tiny.trainer(tmp_path, max_epochs=1, precision="bf16-mixed")
    seen = []
    module.net.register_forward_hook(lambda net, *_: seen.append((net.training, torch.is_autocast_enabled("cpu"))))
    trainer.fit(module, tiny.loader(), tiny.loader(seed=1))
    trainer.test(module, tiny.loader(seed=1), verbose=False)
    trainer.predict(module, tiny.loader(seed=1))
    assert set(seen) == {(True, True), (False, False)}


def test_classifier_uses_channels_last(tiny, tmp_path):
    seen = []

    class RecordLayout(tiny.Colour):
        def forward(self, images):
            seen.append(images.is_contiguous(memory_format=torch.channels_last))
            return super().forward(images)

    module = tiny.module(Backbone(RecordLayout(), name="colour", num_classes=3))
    tiny.trainer(tmp_path, max_epochs=1).fit(module, tiny.loader(), tiny.loader())
    assert seen
    assert all(seen)


def test_classifier_compile_keeps_parameter_names(tiny, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    module = tiny.module(compile=True)
    assert compiled == [module.net]
    assert set(module.state_dict()) == {"net.mean", "net.std", "net.net.fc.weight", "net.net.fc.bias"}


def test_classifier_rejects_invalid_arguments(tiny, tmp_path):
    with pytest.raises(ModelError, match="3 classes and the data has 2"):
        ImageClassifier(tiny.backbone(), CrossEntropy(), functools.partial(configure_optimizer), ["a", "b"])
    with pytest.raises(ModelError, match=r"litesort\.config is a Tensor"):
        tiny.module(model_card={"config": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"trainer\.max_epochs"):
        tiny.trainer(tmp_path, max_epochs=-1).fit(tiny.module(), tiny.loader(), tiny.loader())
