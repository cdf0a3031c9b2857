"""A teacher that is asked once about each view of a photo."""

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
from lightning_modules.objectives.teacher_cache import TeacherCache
from lightning_modules.optim import configure
from litesort.errors import ModelError


class Counted:
    """A teacher's network that keeps the photos which it is asked about."""

    def __init__(self, classes):
        torch.manual_seed(1)
        self.net = create_backbone("lcnet_050", len(classes), pretrained=False).eval().requires_grad_(False)
        self.photos = []
        self.teacher = TeacherEnsemble([Teacher(self, classes, None, "counted.ckpt", self.net)])

    def __call__(self, images):
        self.photos.append(images)
        return self.net(images)

    @property
    def count(self):
        return sum(map(len, self.photos))


@pytest.fixture
def photos(tmp_path):
    augment = policy(num_ops=2, hflip=0.5, crop_p=1.0, mixing=Mixing(mixup_alpha=0.2))
    return data_module(noise(tmp_path / "photos"), tmp_path / "cache", size=32, augment=augment)


def student(photos, objective, lr=1e-3):
    torch.manual_seed(0)
    net = create_backbone("lcnet_050", len(photos.classes), pretrained=False)
    return ImageClassifier(net, objective, functools.partial(configure, lr=lr), photos.classes)


def seen(photos, epochs):
    """Photos of so many epochs; a last batch that is not full is left out."""
    return epochs * (len(photos.splits["train"]) // 8 * 8)


def test_the_teacher_is_asked_in_one_round_and_one_validation(photos, make_trainer):
    counted = Counted(photos.classes)
    module = student(photos, LogitDistillation(counted.teacher))
    make_trainer(CacheTeacher(epochs=2), epochs=5).fit(module, datamodule=photos)
    assert counted.count == seen(photos, 2) + len(photos.splits["val"])
    assert module.objective.teacher_cache is None  # the memory is given back
    assert photos.repeat_after is None


@pytest.mark.parametrize("objective", [LogitDistillation, functools.partial(FeatureDistillation, levels=[-2, -1])])
def test_what_is_remembered_is_what_it_says_of_that_view(photos, make_trainer, objective):
    """A round of one epoch, three times over: as if the teacher were asked each time, up to float16."""
    photos.repeat_after, histories = 1, []
    for callbacks in ([], [CacheTeacher(epochs=1, mirror=False)]):
        counted = Counted(photos.classes)
        module = student(photos, objective(counted.teacher), lr=1e-7)  # or rounding would grow
        trainer = make_trainer(*callbacks, epochs=3)
        trainer.fit(module, datamodule=photos)
        assert counted.count == (1 if callbacks else 3) * (seen(photos, 1) + len(photos.splits["val"]))
        histories.append({key: float(value) for key, value in trainer.callback_metrics.items()})
    live, remembered = histories
    for history in histories:
        del history["val/auroc_macro"]  # rounding decides the ranks of few images
    assert remembered == pytest.approx(live, rel=0.02)


class Views(CacheTeacher):
    """Keep the first batch of each epoch."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.photos = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if batch_idx == 0:
            self.photos.append(batch.images.clone())


def views(photos, make_trainer, count, **settings):
    watcher = Views(**settings)
    module = student(photos, LogitDistillation(Counted(photos.classes).teacher))
    make_trainer(watcher, epochs=count).fit(module, datamodule=photos)
    return watcher.photos


def test_epochs_of_a_round_differ_and_rounds_do_not(photos, make_trainer):
    first, second, third, fourth = views(photos, make_trainer, 4, epochs=2, mirror=False)
    assert torch.equal(first, third)
    assert torch.equal(second, fourth)
    assert not torch.equal(first, second)


def test_every_second_round_is_mirrored_where_the_augmentation_flips(photos, make_trainer):
    first, second, third = views(photos, make_trainer, 3, epochs=1)
    assert torch.equal(second, first.flip(3))
    assert torch.equal(third, first)
    for augment in (policy(num_ops=2, hflip=0.0, vflip=0.5), None):
        photos.augment = augment
        first, second = views(photos, make_trainer, 2, epochs=1)
        assert torch.equal(first, second)


def test_what_is_remembered_lies_as_the_photos_do(photos, make_trainer):
    class SeesPhotos(LogitDistillation):
        """The teacher's map is the photo itself."""

        def teacher_outputs(self, images):
            return [*super().teacher_outputs(images), images]

        def forward(self, output, targets, images=None):
            terms = super().forward(output, targets, images)
            torch.testing.assert_close(self._features[0], images, atol=1e-3, rtol=1e-3)  # up to float16
            return terms

    counted = Counted(photos.classes)
    make_trainer(CacheTeacher(epochs=1), epochs=3).fit(student(photos, SeesPhotos(counted.teacher)), datamodule=photos)
    assert counted.count == seen(photos, 1) + len(photos.splits["val"])


def test_a_mirrored_round_that_is_resumed_remembers_photos_as_they_lay():
    teacher_cache = TeacherCache(1e6)
    teacher_cache.key, teacher_cache.mirrored = 0, True
    images, asked = torch.rand(2, 3, 4, 4), []

    def teacher_outputs(photos):
        asked.append(photos)
        return [photos]

    maps = teacher_cache(images, teacher_outputs)[0]
    assert torch.equal(asked[0], images.flip(3))
    torch.testing.assert_close(maps, images, atol=1e-3, rtol=1e-3)
    teacher_cache.mirrored = False
    torch.testing.assert_close(teacher_cache(images, teacher_outputs)[0], images.flip(3), atol=1e-3, rtol=1e-3)
    assert len(asked) == 1


def test_a_test_after_training_asks_the_teacher(photos, make_trainer):
    counted = Counted(photos.classes)
    module = student(photos, LogitDistillation(counted.teacher))
    trainer = make_trainer(CacheTeacher(epochs=1), epochs=1)
    trainer.fit(module, datamodule=photos)
    before = counted.count
    trainer.test(module, datamodule=photos, verbose=False)
    assert counted.count - before == len(photos.splits["test"])


def test_an_objective_without_a_teacher_is_refused(make_module, make_trainer, data):
    with pytest.raises(ModelError, match="needs an objective with a teacher"):
        make_trainer(CacheTeacher()).fit(make_module(), datamodule=data)


@pytest.mark.parametrize(("settings", "message"), [({"epochs": 0}, "epochs=0"), ({"max_gb": 0}, "max_gb=0")])
def test_values_that_do_nothing_are_refused(settings, message):
    with pytest.raises(ModelError, match=message):
        CacheTeacher(**settings)


def test_batches_beyond_the_budget_are_computed_each_time():
    calls = []

    def teacher_outputs(images):
        calls.append(images)
        return [images.mean((2, 3))]

    teacher_cache = TeacherCache(max_bytes=2 * 3 * 2)  # two photos of three values
    for _ in range(2):
        for place in range(2):
            teacher_cache.key = place
            assert teacher_cache(torch.ones(2, 3, 4, 4), teacher_outputs)[0].dtype == torch.float32
    assert (len(calls), teacher_cache.size) == (3, 12)
    teacher_cache.key = 0
    teacher_cache(torch.ones(2, 3, 2, 2), teacher_outputs)  # smaller photos are others
    assert len(calls) == 4
