"""Distillation objectives, alone and in training."""

import functools

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_modules.backbones.backbone import Backbone, create_backbone
from lightning_modules.checkpoint import build_net, read_checkpoint
from lightning_modules.classifier import ImageClassifier
from lightning_modules.objectives import distillation_losses
from lightning_modules.objectives.agreement import Agreement
from lightning_modules.objectives.base import LogitAdjustment
from lightning_modules.objectives.distillation import (
    DecoupledDistillation,
    FeatureDistillation,
    LogitDistillation,
    RelationDistillation,
)
from lightning_modules.objectives.hooks import FeatureHooks, channels
from lightning_modules.objectives.teacher import Teacher, TeacherEnsemble
from lightning_modules.optim import configure_optimizer
from litesort.errors import ModelError

CLASSES = ["Metal", "Paper", "Plastic"]
LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
OUTPUTS = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).log_softmax(1)
TARGETS = torch.tensor([0, 1, 2, 0, 1, 2])
IMAGES = torch.rand(6, 3, 8, 8)


def fixed_teacher(outputs=OUTPUTS) -> TeacherEnsemble:
    """Build a teacher with the same outputs for all images."""
    return TeacherEnsemble([Teacher(lambda images: outputs, CLASSES, None, "teacher.ckpt")])


def perfect_teacher() -> TeacherEnsemble:
    """Build a teacher with correct predictions for the images of the tiny loader."""
    return TeacherEnsemble([Teacher(lambda images: 20 * images.mean((2, 3)), CLASSES, None, "teacher.ckpt")])


def lcnet(seed=0, name="lcnet_050") -> Backbone:
    torch.manual_seed(seed)
    return create_backbone(name, 3, pretrained=False)


def timm_teacher(name="lcnet_050") -> TeacherEnsemble:
    """Build a teacher with a PyTorch network, whose features are available."""
    net = lcnet(1, name).eval().requires_grad_(False)
    return TeacherEnsemble([Teacher(net, CLASSES, 64, "teacher.ckpt", net)])


def weighted_sum(a, b, terms):
    return a * terms[0] + b * terms[1]


KL = distillation_losses.kd_loss(LOGITS, OUTPUTS, 4.0)
LABELS = F.cross_entropy(LOGITS, TARGETS)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda t: LogitDistillation(t, alpha=0.7), 0.3 * LABELS + 0.7 * KL),
        (
            lambda t: LogitDistillation(t, alpha=0.5, target="hard"),
            0.5 * LABELS + 0.5 * F.cross_entropy(LOGITS, OUTPUTS.argmax(1)),
        ),
        (lambda t: LogitDistillation(t, alpha=1.0), KL),
        (
            lambda t: DecoupledDistillation(t, alpha=2.0, beta=3.0, temperature=2.0),
            LABELS + weighted_sum(2, 3, distillation_losses.dkd_losses(LOGITS, OUTPUTS, TARGETS, 2.0)),
        ),
        (
            lambda t: RelationDistillation(t, beta=2.0, gamma=3.0),
            LABELS + weighted_sum(2, 3, distillation_losses.dist_loss(LOGITS, OUTPUTS)),
        ),
    ],
    ids=["logit", "hard", "alpha 1", "decoupled", "dist"],
)  # fmt: skip
def test_distillation_loss_is_weighted_sum_of_terms(make, expected):
    terms = make(fixed_teacher())(LOGITS, TARGETS, IMAGES)
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["labels"], LABELS)
    assert len(terms) >= 3


def test_distillation_trains_first_head_on_labels_and_second_on_teacher():
    first, second = LOGITS.clone().requires_grad_(), (LOGITS * 2).requires_grad_()
    terms = LogitDistillation(fixed_teacher(), alpha=0.5, target="hard")((first, second), TARGETS, IMAGES)
    torch.testing.assert_close(terms["labels"], F.cross_entropy(first, TARGETS))
    torch.testing.assert_close(terms["teacher"], F.cross_entropy(second, OUTPUTS.argmax(1)))


def test_distillation_smoothing_changes_labels_term_only():
    mixed = F.one_hot(TARGETS, 3).float()
    smoothed, plain = LogitDistillation(fixed_teacher(), label_smoothing=0.2), LogitDistillation(fixed_teacher())
    terms = smoothed(LOGITS, mixed, IMAGES)
    torch.testing.assert_close(terms["labels"], F.cross_entropy(LOGITS, TARGETS, label_smoothing=0.2))
    torch.testing.assert_close(terms["teacher"], plain(LOGITS, TARGETS, IMAGES)["teacher"])


def test_distillation_tau_changes_labels_term_only():
    adjusted = LogitDistillation(fixed_teacher(), tau=1.0, class_counts=[9, 3, 1])
    plain = LogitDistillation(fixed_teacher())
    terms = adjusted(LOGITS, TARGETS, IMAGES)
    torch.testing.assert_close(terms["labels"], LogitAdjustment(class_counts=[9, 3, 1])(LOGITS, TARGETS)["loss"])
    torch.testing.assert_close(terms["teacher"], plain(LOGITS, TARGETS, IMAGES)["teacher"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogitDistillation(fixed_teacher(), alpha=0.0), "objective.alpha=0.0: the teacher does nothing"),
        (lambda: LogitDistillation(fixed_teacher(), alpha=1.5), "alpha=1.5 is invalid"),
        (lambda: LogitDistillation(fixed_teacher(), temperature=0.0), "temperature=0.0"),
        (lambda: LogitDistillation(fixed_teacher(), target="medium"), "target=medium"),
        (lambda: LogitDistillation(fixed_teacher(), alpha=1.0, label_smoothing=0.1), "labels have no weight"),
        (lambda: DecoupledDistillation(fixed_teacher(), alpha=0.0, beta=0.0), "beta=0.0: the teacher does nothing"),
        (lambda: DecoupledDistillation(fixed_teacher(), label_weight=-1.0), "objective.label_weight=-1.0 is invalid"),
        (lambda: DecoupledDistillation(fixed_teacher(), alpha=-1.0), "alpha=-1.0 and .* is invalid: give weights"),
        (lambda: RelationDistillation(fixed_teacher(), beta=0.0, gamma=0.0), "the teacher does nothing"),
        (lambda: FeatureDistillation(timm_teacher(), beta=0.0), "objective.beta=0.0: the teacher does nothing"),
        (lambda: FeatureDistillation(timm_teacher(), levels=[]), "levels"),
        (lambda: FeatureDistillation(timm_teacher(), distance="l2"), "distance=l2 is unknown: give pearson or cosine"),
        (lambda: FeatureDistillation(timm_teacher(), levels=[9]), "feature levels"),
        (lambda: FeatureDistillation(fixed_teacher()), "needs the features of its teacher"),
    ],
)  # fmt: skip
def test_distillation_rejects_invalid_settings(make, message):
    with pytest.raises(ModelError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_distillation_logs_teacher_f1_and_agreement(tiny, tmp_path):
    module = tiny.module(objective=LogitDistillation(perfect_teacher()))
    trainer = tiny.trainer(tmp_path, max_epochs=1)
    trainer.fit(module, tiny.loader(), tiny.loader(seed=1))
    logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
    assert logged["val/teacher_f1_macro"] == 1.0
    with torch.no_grad():
        equal = [(module.eval()(b.images).argmax(1) == b.targets).float().mean() for b in tiny.loader(seed=1).dataset]
    assert logged["val/agreement"] == pytest.approx(float(sum(equal) / len(equal)))
    assert {"train/labels", "train/teacher", "val/labels", "val/teacher"} <= logged.keys()


def test_distillation_trains_student_without_labels(tiny, tmp_path):
    module = tiny.module(objective=LogitDistillation(perfect_teacher(), alpha=1.0, temperature=1.0))
    trainer = tiny.trainer(tmp_path, max_epochs=12)
    trainer.fit(module, tiny.loader(), tiny.loader(seed=1))
    assert trainer.callback_metrics["val/f1_macro"] > 0.9
    assert trainer.callback_metrics["val/agreement"] > 0.9


def test_distillation_leaves_teacher_out_of_checkpoint(tiny, tmp_path):
    teacher = timm_teacher()
    before = {key: value.clone() for key, value in teacher.members[0].net.state_dict().items()}
    averaging = WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(0.5))
    net = lcnet()
    module = ImageClassifier(net, LogitDistillation(teacher), functools.partial(configure_optimizer, lr=0.01), CLASSES)
    own = {id(p) for p in module.parameters()}
    assert own == {id(p) for p in net.parameters()}
    trainer = tiny.trainer(tmp_path, max_epochs=1, callbacks=[averaging])
    trainer.fit(module, tiny.loader(), tiny.loader())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert all(key.startswith("net.") for key in read_checkpoint(tmp_path / "a.ckpt")["state_dict"])
    optimised = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert optimised <= own
    after = teacher.members[0].net
    assert all(torch.equal(before[key], value) for key, value in after.state_dict().items())
    assert not after.training


@pytest.mark.parametrize("name", ["lcnet_050", "resnet10t", "deit_tiny_distilled_patch16_224", "fastvit_t8"])
def test_feature_hooks_return_maps_for_every_architecture(name):
    kwargs = {"img_size": 64, "depth": 2} if "deit" in name else {}
    net = create_backbone(name, 3, pretrained=False, kwargs=kwargs)
    hooks = FeatureHooks(net, [-2, -1])
    found = channels(net, hooks)
    assert net.training
    net.eval()(torch.zeros(2, 3, 64, 64))
    maps = hooks.take()
    assert [m.shape[:2] for m in maps] == [(2, c) for c in found]
    assert all(m.ndim == 4 and m.shape[2] == m.shape[3] for m in maps)
    hooks.close()
    net(torch.zeros(1, 3, 64, 64))
    assert not hooks._features


def feature_run(tiny, tmp_path, epochs, teacher, **settings):
    """Return a module with feature distillation, and its trainer."""
    objective = FeatureDistillation(teacher, alpha=0.0, levels=[-2, -1])
    module = ImageClassifier(lcnet(), objective, functools.partial(configure_optimizer, lr=0.01), CLASSES)
    trainer = tiny.trainer(tmp_path, max_epochs=epochs, **settings)
    return module, trainer


def test_feature_distillation_trains_projections_without_exporting_them(tiny, tmp_path):
    module, trainer = feature_run(tiny, tmp_path, 1, timm_teacher("resnet10t"))
    before = [p.weight.detach().clone() for p in module.objective.projections]
    assert [tuple(w.shape[:2]) for w in before] == [(256, 128), (512, 256)]
    trainer.fit(module, tiny.loader(), tiny.loader())
    assert all((p.weight != w).any() for p, w in zip(module.objective.projections, before, strict=True))
    assert float(trainer.callback_metrics["train/features"]) > 0
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = read_checkpoint(tmp_path / "a.ckpt")
    extra = {key for key in checkpoint["state_dict"] if not key.startswith("net.")}
    assert extra == {"objective.projections.0.weight", "objective.projections.1.weight"}
    net = build_net(checkpoint)
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(net(images), module.eval()(images))
    assert not any(m._forward_hooks for m in net.modules())


def test_feature_distillation_resume_equals_uninterrupted_run(tiny, tmp_path):
    teacher = timm_teacher()
    whole, trainer = feature_run(tiny, tmp_path, 3, teacher)
    trainer.fit(whole, tiny.loader(), tiny.loader())

    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == 1

    first, trainer = feature_run(tiny, tmp_path, 3, teacher, callbacks=[Stop()])
    trainer.fit(first, tiny.loader(), tiny.loader())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed, trainer = feature_run(tiny, tmp_path, 3, teacher)
    trainer.fit(resumed, tiny.loader(), tiny.loader(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


class NoFloat64(TorchDispatchMode):
    """Raise an error for float64, like MPS."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        assert getattr(out, "dtype", None) != torch.float64, func
        return out


def test_agreement_uses_no_float64():
    agreement = Agreement(2)
    with NoFloat64():
        agreement.update(LOGITS[:, :2], OUTPUTS[:, :2], TARGETS.clamp(max=1))
        values = agreement.compute()
    teacher, student = OUTPUTS[:, :2].argmax(1), LOGITS[:, :2].argmax(1)
    assert values["agreement"] == (teacher == student).float().mean()
    assert all(value.dtype == torch.float32 for value in values.values())
