import functools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lightning_modules.objectives.base import CrossEntropy, Focal, LogitAdjustment, Objective, build_objective
from litesort.errors import ModelError

COUNTS = [100, 10, 1]
LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    "make",
    [
        lambda counts: CrossEntropy(class_weight_power=0.5, class_counts=counts),
        lambda counts: Focal(gamma=2.0, class_weight_power=0.5, class_counts=counts),
        lambda counts: LogitAdjustment(tau=1.0, class_counts=counts),
    ],
    ids=["weighted", "focal", "adjusted"],
)
def test_class_counts_increase_gradient_of_rare_classes(make):
    def gradient(counts):
        logits = torch.zeros(3, 3, requires_grad=True)
        make(counts)(logits, torch.arange(3))["loss"].backward()
        return logits.grad.diagonal()  # gradient of each class for an image of that class

    gradients = gradient(COUNTS)
    assert gradients[2] < gradients[1] < gradients[0] < 0
    assert not torch.allclose(gradients, gradient(COUNTS[::-1]))


@pytest.mark.parametrize("make", [CrossEntropy, Focal, lambda **kw: LogitAdjustment(class_counts=COUNTS, **kw)])
def test_objective_one_hot_targets_equal_labels(make):
    objective = make(label_smoothing=0.1)
    mixed = F.one_hot(TARGETS, 3).float()
    torch.testing.assert_close(objective(LOGITS, mixed)["loss"], objective(LOGITS, TARGETS)["loss"])


def test_cross_entropy_equals_torch_in_half_precision():
    half = LOGITS.half()
    loss = CrossEntropy(label_smoothing=0.1, class_counts=COUNTS)(half, TARGETS)["loss"]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(half.float(), TARGETS, label_smoothing=0.1))


def test_objective_averages_loss_of_two_heads():
    objective = CrossEntropy()
    one, two = objective(LOGITS, TARGETS)["loss"], objective(LOGITS * 2, TARGETS)["loss"]
    torch.testing.assert_close(objective((LOGITS, LOGITS * 2), TARGETS)["loss"], (one + two) / 2)


def test_logit_adjustment_equals_cross_entropy_for_equal_counts(caplog):
    with caplog.at_level("INFO"):
        loss = LogitAdjustment(class_counts=[7, 7, 7])(LOGITS, TARGETS)["loss"]
    assert "every class is drawn 7 times per epoch, so logit adjustment is plain cross-entropy" in caplog.text
    torch.testing.assert_close(loss, F.cross_entropy(LOGITS, TARGETS))


def test_logit_adjustment_adds_log_frequencies():
    shifted = LOGITS + 0.5 * torch.tensor(COUNTS).div(sum(COUNTS)).log()
    torch.testing.assert_close(
        LogitAdjustment(tau=0.5, class_counts=COUNTS)(LOGITS, TARGETS)["loss"], F.cross_entropy(shifted, TARGETS)
    )


def test_logit_adjustment_is_finite_for_an_empty_class():
    objective = LogitAdjustment(label_smoothing=0.1, class_counts=[9, 3, 0])
    assert objective(LOGITS, torch.tensor([0, 1, 0, 0, 1, 0]))["loss"].isfinite()


def test_class_weights_are_not_in_state_dict():
    assert not CrossEntropy(class_weight_power=1.0, class_counts=COUNTS).state_dict()
    assert not LogitAdjustment(class_counts=COUNTS).state_dict()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossEntropy(label_smoothing=1.0), "label_smoothing=1.0"),
        (lambda: CrossEntropy(class_weight_power=0.5), "needs the training images"),
        (lambda: CrossEntropy(class_weight_power=2.0, class_counts=COUNTS), "class_weight_power=2.0"),
        (
            lambda: CrossEntropy(class_weight_power=0.5, class_counts=[5, 5]),
            "has no effect, because every class is drawn 5",
        ),
        (lambda: CrossEntropy(class_weight_power=0.5, class_counts=[5, 0]), r"classes at index \[1\] have none"),
        (lambda: Focal(gamma=0.0), "gamma=0.0 has no effect"),
        (lambda: LogitAdjustment(tau=0.0, class_counts=COUNTS), "tau=0.0 has no effect"),
        (lambda: LogitAdjustment(tau=1.0), "needs the training images"),
        (lambda: LogitAdjustment(tau=-1.0, class_counts=COUNTS), "tau=-1.0 is invalid"),
        (lambda: CrossEntropy(class_weight_power=0.5, tau=1.0, class_counts=COUNTS), "both favour rare classes"),
    ],
)
def test_objective_rejects_invalid_settings(make, message):
    with pytest.raises(ModelError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


class CustomLoss(Objective):
    """Loss of a user, without `class_counts`."""

    def __init__(self, weight: float = 2.0):
        super().__init__()
        self.weight = weight

    def loss(self, logits, targets):
        return self.weight * F.cross_entropy(logits, targets)


class WithCounts(CustomLoss):
    """Objective with `class_counts`."""

    def __init__(self, class_counts, **settings):
        super().__init__(**settings)
        self.counts = class_counts


class ForwardingCounts(WithCounts):
    """Objective that passes `class_counts` on."""

    def __init__(self, **settings):
        super().__init__(**settings)


def test_build_objective_passes_class_counts_if_accepted():
    assert build_objective(functools.partial(CustomLoss, weight=3.0), COUNTS).weight == 3
    assert build_objective(WithCounts, COUNTS).counts == COUNTS
    assert build_objective(functools.partial(ForwardingCounts, weight=3.0), COUNTS).counts == COUNTS
    assert build_objective(lambda class_counts: WithCounts(class_counts), COUNTS).counts == COUNTS


CONF = Path(__file__).parents[3] / "conf" / "objective"


@pytest.mark.parametrize(
    ("stem", "kind"),
    [
        ("cross_entropy", CrossEntropy),
        ("class_weighted", CrossEntropy),
        ("focal", Focal),
        ("logit_adjusted", LogitAdjustment),
    ],
)
def test_objective_configs_build_distinct_objectives(stem, kind):
    objective = instantiate(OmegaConf.load(CONF / f"{stem}.yaml"), class_counts=COUNTS)
    assert type(objective) is kind
    plain = F.cross_entropy(LOGITS, TARGETS)
    assert not torch.isclose(objective(LOGITS, TARGETS)["loss"], plain)
