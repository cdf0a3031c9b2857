"""CacheTeacher: a teacher computes its outputs once for each augmented view of an image."""

import functools

import pytest
import torch
from policies import policy
from toy_images import data_module, noise

from callbacks.teacher_cache import CacheTeacher
from datamodules.augment.mix import Mixing
from lightning_modules.backbones.backbone import create_backbone
from lightning_modules.classifier import ImageClassifier
from lightning_modules.objectives.distillation import FeatureDistillation, LogitDistillation
from lightning_modules.objectives.teacher import Teacher, TeacherEnsemble
from lightning_modules.optim import configure_optimizer
from litesort.errors import ModelError


class CountingTeacher:
    """Teacher that records its inputs. `teacher` is its ensemble, `count` its number of images."""

    def __init__(self, classes):
        torch.manual_seed(1)
        self.net = create_backbone("lcnet_050", len(classes), pretrained=False).eval().requires_grad_(False)
        self.images = []
        self.teacher = TeacherEnsemble([Teacher(self, classes, None, "counted.ckpt", self.net)])

    def __call__(self, images):
        self.images.append(images)
        return self.net(images)

    @property
    def count(self):
        return sum(map(len, self.images))


@pytest.fixture
def data(tmp_path):
    augment = policy(num_ops=2, hflip=0.5, crop_p=1.0, mixing=Mixing(mixup_alpha=0.2))
    return data_module(noise(tmp_path / "photos"), tmp_path / "cache", size=32, augment=augment)


def student(data, objective, lr=1e-3):
    torch.manual_seed(0)
    net = create_backbone("lcnet_050", len(data.classes), pretrained=False)
    return ImageClassifier(net, objective, functools.partial(configure_optimizer, lr=lr), data.classes)


def train_images(data, epochs):
    """Number of training images in `epochs` epochs; an incomplete last batch is dropped."""
    return epochs * (len(data.splits["train"]) // 8 * 8)


def test_teacher_runs_in_the_first_round_and_the_first_validation_only(data, make_trainer):
    counting = CountingTeacher(data.classes)
    module = student(data, LogitDistillation(counting.teacher))
    make_trainer(CacheTeacher(epochs=2), epochs=5).fit(module, datamodule=data)
    assert counting.count == train_images(data, 2) + len(data.splits["val"])
    assert module.objective.teacher_cache is None  # its memory is freed
    assert data.repeat_after is None


@pytest.mark.parametrize("objective", [LogitDistillation, functools.partial(FeatureDistillation, levels=[-2, -1])])
def test_cached_outputs_equal_live_outputs(data, make_trainer, objective):
    """Three rounds of one epoch give the same metrics with and without the cache, up to float16."""
    data.repeat_after, histories = 1, []
    for callbacks in ([], [CacheTeacher(epochs=1, mirror=False)]):
        counting = CountingTeacher(data.classes)
        module = student(data, objective(counting.teacher), lr=1e-7)  # a larger rate would amplify rounding
        trainer = make_trainer(*callbacks, epochs=3)
        trainer.fit(module, datamodule=data)
        assert counting.count == (1 if callbacks else 3) * (train_images(data, 1) + len(data.splits["val"]))
        histories.append({key: float(value) for key, value in trainer.callback_metrics.items()})
    live, cached = histories
    for history in histories:
        del history["val/auroc_macro"]  # on few images, rounding changes the ranks
    assert cached == pytest.approx(live, rel=0.02)


class RecordViews(CacheTeacher):
    """Record the images of the first batch of each epoch."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.images = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if batch_idx == 0:
            self.images.append(batch.images.clone())


def views(data, make_trainer, epochs, round_epochs, mirror=True):
    """Train, and return the images of the first batch of each epoch."""
    callback = RecordViews(epochs=round_epochs, mirror=mirror)
    module = student(data, LogitDistillation(CountingTeacher(data.classes).teacher))
    make_trainer(callback, epochs=epochs).fit(module, datamodule=data)
    return callback.images


def test_epochs_of_a_round_differ_and_rounds_are_equal(data, make_trainer):
    first, second, third, fourth = views(data, make_trainer, 4, round_epochs=2, mirror=False)
    assert torch.equal(first, third)
    assert torch.equal(second, fourth)
    assert not torch.equal(first, second)


def test_every_second_round_is_mirrored_where_the_augmentation_flips(data, make_trainer):
    first, second, third = views(data, make_trainer, 3, round_epochs=1)
    assert torch.equal(second, first.flip(3))
    assert torch.equal(third, first)
    for augment in (policy(num_ops=2, hflip=0.0, vflip=0.5), None):
        data.augment = augment
        first, second = views(data, make_trainer, 2, round_epochs=1)
        assert torch.equal(first, second)


def test_cached_feature_maps_are_mirrored_with_the_images(data, make_trainer):
    class ImageAsFeature(LogitDistillation):
        """The teacher's feature map is the image itself."""

        def teacher_outputs(self, images):
            return [*super().teacher_outputs(images), images]

        def forward(self, output, targets, images=None):
            terms = super().forward(output, targets, images)
            torch.testing.assert_close(self._features[0], images, atol=1e-3, rtol=1e-3)  # up to float16
            return terms

    counting = CountingTeacher(data.classes)
    make_trainer(CacheTeacher(epochs=1), epochs=3).fit(student(data, ImageAsFeature(counting.teacher)), datamodule=data)
    assert counting.count == train_images(data, 1) + len(data.splits["val"])


def test_trainer_test_runs_the_teacher_again(data, make_trainer):
    counting = CountingTeacher(data.classes)
    module = student(data, LogitDistillation(counting.teacher))
    trainer = make_trainer(CacheTeacher(epochs=1), epochs=1)
    trainer.fit(module, datamodule=data)
    before = counting.count
    trainer.test(module, datamodule=data, verbose=False)
    assert counting.count - before == len(data.splits["test"])


def test_objective_without_a_teacher_raises_model_error(make_module, make_trainer, data):
    with pytest.raises(ModelError, match="needs an objective with a teacher"):
        make_trainer(CacheTeacher()).fit(make_module(), datamodule=data)


@pytest.mark.parametrize(("settings", "message"), [({"epochs": 0}, "epochs=0"), ({"max_gb": 0}, "max_gb=0")])
def test_invalid_settings_raise_model_error(settings, message):
    with pytest.raises(ModelError, match=message):
        CacheTeacher(**settings)
