"""Objectives that learn from a teacher beside the labels; the one training loop stays as it is."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.backbones.backbone import Backbone
from lightning_modules.objectives import distillation_losses, losses
from lightning_modules.objectives.agreement import Agreement
from lightning_modules.objectives.base import CrossEntropy, Output
from lightning_modules.objectives.hooks import FeatureHooks, channels
from lightning_modules.objectives.teacher import TeacherEnsemble
from lightning_modules.objectives.teacher_cache import TeacherCache
from litesort.errors import ModelError

_DISTANCES = {"pearson": distillation_losses.pkd_loss, "cosine": distillation_losses.cosine_feature_loss}


class Distillation(CrossEntropy):
    """Cross-entropy with the labels, and what subclasses add by the teacher's answers to the same photos.

    Of a pair of outputs (a distilled DeiT in training) the first head learns the labels, the second the teacher.

    Args:
        teacher: Who answers; see `teacher.load_teacher`.
        label_weight: Factor of the cross-entropy with the labels, 0 or more.
        label_smoothing, class_weight_power, tau, class_counts: As in CrossEntropy, for the labels' part.

    Terms: "labels", the subclass's own, and "loss", their weighted sum. While judging, the teacher's macro F1 and how
    often student and teacher agree are kept for `compute`.
    """

    def __init__(
        self,
        teacher: TeacherEnsemble,
        label_weight: float = 1.0,
        label_smoothing: float = 0.0,
        class_weight_power: float = 0.0,
        tau: float = 0.0,
        class_counts: Sequence[int] | None = None,
    ) -> None:
        super().__init__(label_smoothing, class_weight_power, tau, class_counts)
        if not label_weight and (label_smoothing or class_weight_power):
            raise ModelError(
                f"objective.label_smoothing={label_smoothing} and class_weight_power={class_weight_power} do nothing "
                "where the labels have no weight: give them 0"
            )
        self.teacher = teacher
        self.label_weight = label_weight
        self.agreement: Agreement | None = None
        self.teacher_cache: TeacherCache | None = None  # of batches that come again; given by a callback

    def attach(self, net: Backbone, classes: Sequence[str]) -> None:
        self.teacher.match(classes)
        self.agreement = Agreement(len(classes)).to(
            net.mean.device
        )  # pruned in steps, the network is on its device by now

    def distillation_terms(self, student: Tensor, teacher: Tensor, targets: Tensor) -> dict[str, tuple[float, Tensor]]:
        """Terms by name, each with its weight, from logits (B, C) float32 and targets as `forward` gets them."""
        raise NotImplementedError

    def look(self, images: Tensor) -> list[Tensor]:
        """What the teacher makes of photos (B, 3, H, W): logits (B, C) float32, and what a subclass takes beside."""
        return [self.teacher(images)]

    def forward(self, output: Output, targets: Tensor, images: Tensor | None = None) -> dict[str, Tensor]:
        if images is None:
            raise ModelError("an objective with a teacher needs the photos: hand them in as `images`")
        heads = output if isinstance(output, tuple) else (output,)
        first, last = heads[0].float(), heads[-1].float()
        answers, *self._beside = (
            self.look(images) if self.teacher_cache is None else self.teacher_cache(images, self.look)
        )
        if not self.training and self.agreement is not None:
            self.agreement.update(last, answers, targets)
        terms = {"labels": self.loss(first, losses.soft_targets(targets, first.shape[1], self.label_smoothing))}
        total = self.label_weight * terms["labels"]
        for name, (weight, term) in self.distillation_terms(last, answers, targets).items():
            terms[name] = term
            total = total + weight * term
        return {"loss": total, **terms}

    def compute(self) -> dict[str, Tensor]:
        return {} if self.agreement is None else self.agreement.compute()

    def reset(self) -> None:
        if self.agreement is not None:
            self.agreement.reset()


class LogitDistillation(Distillation):
    """(1 - alpha) * labels + alpha * teacher (Hinton et al. 2015).

    alpha in (0, 1]; temperature > 0 softens both answers; target: "soft" is the teacher's probabilities, "hard" its
    first choice (Touvron et al. 2021), which no temperature changes. Other parameters as in Distillation.
    """

    def __init__(
        self,
        teacher: TeacherEnsemble,
        alpha: float = 0.9,
        temperature: float = 4.0,
        target: str = "soft",
        **labels: Any,
    ) -> None:
        if not 0 <= alpha <= 1:
            raise ModelError(f"objective.alpha={alpha} is out of range: give a number above 0, up to 1")
        _weigh(alpha=alpha)
        super().__init__(teacher, label_weight=1 - alpha, **labels)
        if target not in ("soft", "hard"):
            raise ModelError(f"objective.target={target} is unknown: give soft or hard")
        self.alpha, self.temperature, self.target = alpha, _temperature(temperature), target

    def distillation_terms(self, student: Tensor, teacher: Tensor, targets: Tensor) -> dict[str, tuple[float, Tensor]]:
        if self.target == "hard":
            return {"teacher": (self.alpha, distillation_losses.hard_kd_loss(student, teacher))}
        return {"teacher": (self.alpha, distillation_losses.kd_loss(student, teacher, self.temperature))}


class DecoupledDistillation(Distillation):
    """labels + alpha * target class + beta * other classes (DKD, Zhao et al. 2022).

    alpha, beta >= 0, not both 0; temperature > 0. Other parameters as in Distillation.
    """

    def __init__(
        self, teacher: TeacherEnsemble, alpha: float = 1.0, beta: float = 4.0, temperature: float = 4.0, **labels: Any
    ) -> None:
        _weigh(alpha=alpha, beta=beta)
        super().__init__(teacher, **labels)
        self.alpha, self.beta, self.temperature = alpha, beta, _temperature(temperature)

    def attach(self, net: Backbone, classes: Sequence[str]) -> None:
        super().attach(net, classes)
        if len(classes) == 2 and not self.alpha:
            raise ModelError(
                f"objective.beta={self.beta} does nothing with two classes: there is one other; give alpha"
            )

    def distillation_terms(self, student: Tensor, teacher: Tensor, targets: Tensor) -> dict[str, tuple[float, Tensor]]:
        target, others = distillation_losses.dkd_losses(student, teacher, targets, self.temperature)
        return {"target_class": (self.alpha, target), "other_classes": (self.beta, others)}


class RelationDistillation(Distillation):
    """labels + beta * relations between classes + gamma * relations between photos (DIST, Huang et al. 2022).

    beta, gamma >= 0, not both 0; temperature > 0. Made for teachers much stronger than the student. Other parameters
    as in Distillation.
    """

    def __init__(
        self, teacher: TeacherEnsemble, beta: float = 2.0, gamma: float = 2.0, temperature: float = 1.0, **labels: Any
    ) -> None:
        _weigh(beta=beta, gamma=gamma)
        super().__init__(teacher, **labels)
        self.beta, self.gamma, self.temperature = beta, gamma, _temperature(temperature)

    def distillation_terms(self, student: Tensor, teacher: Tensor, targets: Tensor) -> dict[str, tuple[float, Tensor]]:
        inter, intra = distillation_losses.dist_loss(student, teacher, self.temperature)
        return {"between_classes": (self.beta, inter), "between_photos": (self.gamma, intra)}


class FeatureDistillation(Distillation):
    """labels + alpha * teacher's answers + beta * its inner features, seen through a learned projection.

    The projections (1x1 convolutions, student's channels to teacher's) are learned with the student and belong to the
    objective: the network that ships knows nothing of them.

    alpha >= 0 and beta > 0; temperature > 0, of the answers; levels: which levels of timm's `feature_info` are matched,
    in student and teacher alike, -1 is the last; distance: "pearson" of each channel, or "cosine" at each place, see
    `distillation_losses`. The teacher is one checkpoint. Other parameters as in Distillation.
    """

    def __init__(
        self,
        teacher: TeacherEnsemble,
        alpha: float = 0.0,
        beta: float = 45.0,
        temperature: float = 4.0,
        levels: Sequence[int] = (-3, -2, -1),
        distance: str = "pearson",
        **labels: Any,
    ) -> None:
        _weigh(beta=beta)
        if alpha < 0:
            raise ModelError(f"objective.alpha={alpha} must not be negative: 0 leaves the teacher's answers out")
        super().__init__(teacher, **labels)
        if len(teacher.members) != 1 or teacher.members[0].net is None:
            raise ModelError("objective=distill_feature looks inside its teacher: give one checkpoint, teacher=PATH")
        if not levels or len(set(levels)) < len(levels):
            raise ModelError(f"objective.levels={list(levels)} must name one level or more, each once, e.g. [-2,-1]")
        if distance not in _DISTANCES:
            raise ModelError(f"objective.distance={distance} is unknown: give {' or '.join(_DISTANCES)}")
        self.alpha, self.beta, self.temperature = alpha, beta, _temperature(temperature)
        self.levels, self.distance = list(levels), _DISTANCES[distance]
        self.projections = nn.ModuleList()
        self._teacher_taps = FeatureHooks(teacher.members[0].net, self.levels)
        self._student_taps: FeatureHooks | None = None

    def attach(self, net: Backbone, classes: Sequence[str]) -> None:
        super().attach(net, classes)
        if self._student_taps is not None:
            self._student_taps.close()
        self._student_taps = FeatureHooks(net, self.levels)
        teacher = self.teacher.members[0].net
        assert teacher is not None
        pairs = zip(channels(net, self._student_taps), channels(teacher, self._teacher_taps), strict=True)
        self.projections = nn.ModuleList(nn.Conv2d(own, theirs, 1, bias=False) for own, theirs in pairs)
        self.projections.to(net.mean.device)

    def look(self, images: Tensor) -> list[Tensor]:
        return super().look(images) + self._teacher_taps.take()

    def distillation_terms(self, student: Tensor, teacher: Tensor, targets: Tensor) -> dict[str, tuple[float, Tensor]]:
        assert self._student_taps is not None
        pairs = zip(self.projections, self._student_taps.take(), self._beside, strict=True)
        distances = [self.distance(see(own).float(), theirs.float()) for see, own, theirs in pairs]
        self._beside = []
        terms = {"features": (self.beta, torch.stack(distances).mean())}
        if self.alpha:
            terms["teacher"] = (self.alpha, distillation_losses.kd_loss(student, teacher, self.temperature))
        return terms


def _weigh(**weights: float) -> None:
    """Raise ModelError for weights that are negative, or all 0: the teacher would do nothing."""
    named = " and ".join(f"objective.{name}={weight}" for name, weight in weights.items())
    if any(weight < 0 for weight in weights.values()):
        raise ModelError(f"{named} must not be negative")
    if not any(weights.values()):
        raise ModelError(f"{named}: the teacher does nothing; give a weight above 0, or objective=cross_entropy")


def _temperature(value: float) -> float:
    if not value > 0:
        raise ModelError(f"objective.temperature={value} must be above 0: 1 leaves the answers as they are")
    return value
