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
def test_the_class_counts_change_the_loss_and_push_rare_classes(make):
    def gradient(counts):
        logits = torch.zeros(3, 3, requires_grad=True)
        make(counts)(logits, torch.arange(3))["loss"].backward()
        return logits.grad.diagonal()  # how hard each class is pushed up by a photo of its own

    push = gradient(COUNTS)
    assert push[2] < push[1] < push[0] < 0
    assert not torch.allclose(push, gradient(COUNTS[::-1]))


@pytest.mark.parametrize("make", [CrossEntropy, Focal, lambda **kw: LogitAdjustment(class_counts=COUNTS, **kw)])
def test_one_hot_mixed_targets_are_the_labels(make):
    objective = make(label_smoothing=0.1)
    mixed = F.one_hot(TARGETS, 3).float()
    torch.testing.assert_close(objective(LOGITS, mixed)["loss"], objective(LOGITS, TARGETS)["loss"])


def test_plain_cross_entropy_is_torchs_in_half_precision_too():
    half = LOGITS.half()
    loss = CrossEntropy(label_smoothing=0.1, class_counts=COUNTS)(half, TARGETS)["loss"]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(half.float(), TARGETS, label_smoothing=0.1))


def test_two_heads_learn_the_labels_alike():
    objective = CrossEntropy()
    one, two = objective(LOGITS, TARGETS)["loss"], objective(LOGITS * 2, TARGETS)["loss"]
    torch.testing.assert_close(objective((LOGITS, LOGITS * 2), TARGETS)["loss"], (one + two) / 2)


def test_adjustment_is_plain_where_classes_are_drawn_alike():
    even = LogitAdjustment(class_counts=[7, 7, 7])(LOGITS, TARGETS)["loss"]
    torch.testing.assert_close(even, F.cross_entropy(LOGITS, TARGETS))


def test_adjusted_logits_are_shifted_by_the_log_of_the_frequencies():
    shifted = LOGITS + 0.5 * torch.tensor(COUNTS).div(sum(COUNTS)).log()
    torch.testing.assert_close(
        LogitAdjustment(tau=0.5, class_counts=COUNTS)(LOGITS, TARGETS)["loss"], F.cross_entropy(shifted, TARGETS)
    )


def test_a_class_without_photos_leaves_the_adjusted_loss_a_number():
    loss = LogitAdjustment(label_smoothing=0.1, class_counts=[9, 3, 0])(LOGITS, torch.tensor([0, 1, 0, 0, 1, 0]))[
        "loss"
    ]
    assert loss.isfinite()


def test_weights_are_not_part_of_the_checkpoint():
    assert not CrossEntropy(class_weight_power=1.0, class_counts=COUNTS).state_dict()
    assert not LogitAdjustment(class_counts=COUNTS).state_dict()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossEntropy(label_smoothing=1.0), "label_smoothing=1.0"),
        (lambda: CrossEntropy(class_weight_power=0.5), "needs the training photos"),
        (lambda: CrossEntropy(class_weight_power=2.0, class_counts=COUNTS), "class_weight_power=2.0"),
        (lambda: CrossEntropy(class_weight_power=0.5, class_counts=[5, 5]), "does nothing, for every class is seen 5"),
        (lambda: CrossEntropy(class_weight_power=0.5, class_counts=[5, 0]), r"classes number \[1\] have none"),
        (lambda: Focal(gamma=0.0), "gamma=0.0 does nothing"),
        (lambda: LogitAdjustment(tau=0.0, class_counts=COUNTS), "tau=0.0 does nothing"),
        (lambda: LogitAdjustment(tau=1.0), "needs the training photos"),
        (lambda: LogitAdjustment(tau=-1.0, class_counts=COUNTS), "tau=-1.0 is out of range"),
        (lambda: CrossEntropy(class_weight_power=0.5, tau=1.0, class_counts=COUNTS), "both push rare classes"),
    ],
)
def test_a_setting_that_does_nothing_or_cannot_is_refused_in_one_line(make, message):
    with pytest.raises(ModelError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


class Own(Objective):
    """A user's loss, which knows nothing of counts."""

    def __init__(self, weight: float = 2.0):
        super().__init__()
        self.weight = weight

    def loss(self, logits, targets):
        return self.weight * F.cross_entropy(logits, targets)


class Counting(Own):
    def __init__(self, class_counts, **rest):
        super().__init__(**rest)
        self.counts = class_counts


class Handing(Counting):
    def __init__(self, **rest):
        super().__init__(**rest)


def test_only_a_constructor_that_has_the_parameter_gets_class_counts():
    assert build_objective(functools.partial(Own, weight=3.0), COUNTS).weight == 3
    assert build_objective(Counting, COUNTS).counts == COUNTS
    assert build_objective(functools.partial(Handing, weight=3.0), COUNTS).counts == COUNTS
    assert build_objective(lambda class_counts: Counting(class_counts), COUNTS).counts == COUNTS


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
def test_every_file_gives_an_objective_that_learns_something_else(stem, kind):
    objective = instantiate(OmegaConf.load(CONF / f"{stem}.yaml"), class_counts=COUNTS)
    assert type(objective) is kind
    plain = F.cross_entropy(LOGITS, TARGETS)
    assert not torch.isclose(objective(LOGITS, TARGETS)["loss"], plain)
