"""Objectives for knowledge distillation: cross-entropy with the labels, and a distillation loss."""

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
    """Base class: cross-entropy with the labels plus the distillation terms of a subclass.

    A distilled DeiT returns a pair of outputs in training: its first head learns the labels, its second the teacher's
    outputs. The loss terms are "labels", the terms of the subclass, and "loss", the weighted sum. In validation and
    test, `compute` returns the macro F1 of the teacher and the agreement of student and teacher.

    Args:
        teacher: Frozen teachers; see `teacher.load_teacher`.
        label_weight: Weight of the cross-entropy with the labels, 0 or more.
        label_smoothing: As in CrossEntropy, for the labels.
        class_weight_power: As in CrossEntropy, for the labels.
        tau: As in CrossEntropy, for the labels.
        class_counts: As in CrossEntropy.

    Raises:
        ModelError: A value is out of range or has no effect.
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
        if not label_weight >= 0:
            raise ModelError(f"objective.label_weight={label_weight} is invalid: give 0 (no labels) or more")
        if not label_weight and (label_smoothing or class_weight_power):
            raise ModelError(
                f"objective.label_smoothing={label_smoothing} and class_weight_power={class_weight_power} do nothing "
                "if the labels have no weight: set both to 0"
            )
        self.teacher = teacher
        self.label_weight = label_weight
        self.agreement: Agreement | None = None
        self.teacher_cache: TeacherCache | None = None  # set by callbacks.CacheTeacher

    def attach(self, net: Backbone, classes: Sequence[str]) -> None:
        self.teacher.match(classes)
        # after a pruning step the network is already on its device
        self.agreement = Agreement(len(classes)).to(net.mean.device)

    def distillation_terms(self, student: Tensor, teacher: Tensor, targets: Tensor) -> dict[str, tuple[float, Tensor]]:
        """Compute the distillation terms of one batch.

        Args:
            student: (B, C) float32, logits.
            teacher: (B, C) float32, logits.
            targets: (B,) int64 labels, or (B, C) float probabilities.

        Returns:
            Weight and scalar of each term, by name.
        """
        raise NotImplementedError

    def teacher_outputs(self, images: Tensor) -> list[Tensor]:
        """Run the teacher.

        Args:
            images: (B, 3, H, W) float in [0, 1].

        Returns:
            (B, C) float32 logits, followed by the outputs that a subclass adds.
        """
        return [self.teacher(images)]

    def forward(self, output: Output, targets: Tensor, images: Tensor | None = None) -> dict[str, Tensor]:
        if images is None:
            raise ModelError("an objective with a teacher needs the images: pass them as `images`")
        heads = output if isinstance(output, tuple) else (output,)
        first, last = heads[0].float(), heads[-1].float()
        predicted, *self._features = (
            self.teacher_outputs(images)
            if self.teacher_cache is None
            else self.teacher_cache(images, self.teacher_outputs)
        )
        if not self.training and self.agreement is not None:
            self.agreement.update(last, predicted, targets)
        terms = {"labels": self.loss(first, losses.soft_targets(targets, first.shape[1], self.label_smoothing))}
        total = self.label_weight * terms["labels"]
        for name, (weight, term) in self.distillation_terms(last, predicted, targets).items():
            terms[name] = term
            total = total + weight * term
        return {"loss": total, **terms}

    def compute(self) -> dict[str, Tensor]:
        return {} if self.agreement is None else self.agreement.compute()

    def reset(self) -> None:
        if self.agreement is not None:
            self.agreement.reset()


class LogitDistillation(Distillation):
    """Logit distillation (Hinton et al. 2015): (1 - alpha) * labels + alpha * KD loss.

    Args:
        teacher: Frozen teachers.
        alpha: Weight of the teacher, in (0, 1].
        temperature: Softmax temperature of student and teacher, above 0.
        target: "soft" for the probabilities of the teacher, "hard" for its predicted class (Touvron et al. 2021). The
            temperature has no effect on "hard".
        **labels: As in Distillation.

    Raises:
        ModelError: A value is out of range.
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
            raise ModelError(f"objective.alpha={alpha} is invalid: expected a number above 0, up to 1")
        _check_weights(alpha=alpha)
        super().__init__(teacher, label_weight=1 - alpha, **labels)
        if target not in ("soft", "hard"):
            raise ModelError(f"objective.target={target} is unknown: give soft or hard")
        self.alpha, self.temperature, self.target = alpha, _temperature(temperature), target

    def distillation_terms(self, student: Tensor, teacher: Tensor, targets: Tensor) -> dict[str, tuple[float, Tensor]]:
        if self.target == "hard":
            return {"teacher": (self.alpha, distillation_losses.hard_kd_loss(student, teacher))}
        return {"teacher": (self.alpha, distillation_losses.kd_loss(student, teacher, self.temperature))}


class DecoupledDistillation(Distillation):
    """Decoupled distillation (DKD, Zhao et al. 2022): labels + alpha * target class + beta * other classes.

    Args:
        teacher: Frozen teachers.
        alpha: Weight of the target-class term, 0 or more.
        beta: Weight of the other-classes term, 0 or more; not both weights are 0.
        temperature: Softmax temperature of student and teacher, above 0.
        **labels: As in Distillation.

    Raises:
        ModelError: A value is out of range.
    """

    def __init__(
        self, teacher: TeacherEnsemble, alpha: float = 1.0, beta: float = 4.0, temperature: float = 4.0, **labels: Any
    ) -> None:
        _check_weights(alpha=alpha, beta=beta)
        super().__init__(teacher, **labels)
        self.alpha, self.beta, self.temperature = alpha, beta, _temperature(temperature)

    def attach(self, net: Backbone, classes: Sequence[str]) -> None:
        super().attach(net, classes)
        if len(classes) == 2 and not self.alpha:
            raise ModelError(f"objective.beta={self.beta} does nothing with two classes: set objective.alpha above 0")

    def distillation_terms(self, student: Tensor, teacher: Tensor, targets: Tensor) -> dict[str, tuple[float, Tensor]]:
        target, others = distillation_losses.dkd_losses(student, teacher, targets, self.temperature)
        return {"target_class": (self.alpha, target), "other_classes": (self.beta, others)}


class RelationDistillation(Distillation):
    """Relational distillation (DIST, Huang et al. 2022): labels + beta * inter-class + gamma * intra-class relations.

    DIST is designed for teachers that are much stronger than the student.

    Args:
        teacher: Frozen teachers.
        beta: Weight of the correlation over the classes of an image, 0 or more.
        gamma: Weight of the correlation over the images of a class, 0 or more; not both weights are 0.
        temperature: Softmax temperature of student and teacher, above 0.
        **labels: As in Distillation.

    Raises:
        ModelError: A value is out of range.
    """

    def __init__(
        self, teacher: TeacherEnsemble, beta: float = 2.0, gamma: float = 2.0, temperature: float = 1.0, **labels: Any
    ) -> None:
        _check_weights(beta=beta, gamma=gamma)
        super().__init__(teacher, **labels)
        self.beta, self.gamma, self.temperature = beta, gamma, _temperature(temperature)

    def distillation_terms(self, student: Tensor, teacher: Tensor, targets: Tensor) -> dict[str, tuple[float, Tensor]]:
        inter, intra = distillation_losses.dist_loss(student, teacher, self.temperature)
        return {"between_classes": (self.beta, inter), "between_images": (self.gamma, intra)}


class FeatureDistillation(Distillation):
    """Feature distillation (PKD, Cao et al. 2022): labels + alpha * KD loss + beta * feature loss.

    A learned 1x1 convolution projects each feature map of the student to the channels of the teacher. The projections
    belong to the objective. They are trained with the student and are not exported.

    Args:
        teacher: One teacher, loaded from a checkpoint.
        alpha: Weight of the KD loss, 0 or more.
        beta: Weight of the feature loss, above 0.
        temperature: Softmax temperature of the KD loss, above 0.
        levels: Levels of timm's `feature_info` to match, in student and teacher; -1 is the last.
        distance: "pearson" (`pkd_loss`, per channel) or "cosine" (`cosine_feature_loss`, per position).
        **labels: As in Distillation.

    Raises:
        ModelError: A value is out of range, or the teacher is not one checkpoint.
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
        _check_weights(beta=beta)
        if alpha < 0:
            raise ModelError(f"objective.alpha={alpha} is invalid: give 0 (no KD loss) or more")
        super().__init__(teacher, **labels)
        if len(teacher.members) != 1 or teacher.members[0].net is None:
            raise ModelError(
                "objective=distill_feature needs the features of its teacher: give one checkpoint, teacher=PATH"
            )
        if not levels or len(set(levels)) < len(levels):
            raise ModelError(f"objective.levels={list(levels)} must name one level or more, each once, e.g. [-2,-1]")
        if distance not in _DISTANCES:
            raise ModelError(f"objective.distance={distance} is unknown: give {' or '.join(_DISTANCES)}")
        self.alpha, self.beta, self.temperature = alpha, beta, _temperature(temperature)
        self.levels, self.distance = list(levels), _DISTANCES[distance]
        self.projections = nn.ModuleList()
        self._teacher_hooks = FeatureHooks(teacher.members[0].net, self.levels)
        self._student_hooks: FeatureHooks | None = None

    def attach(self, net: Backbone, classes: Sequence[str]) -> None:
        super().attach(net, classes)
        if self._student_hooks is not None:
            self._student_hooks.close()
        self._student_hooks = FeatureHooks(net, self.levels)
        teacher = self.teacher.members[0].net
        assert teacher is not None
        pairs = zip(channels(net, self._student_hooks), channels(teacher, self._teacher_hooks), strict=True)
        self.projections = nn.ModuleList(nn.Conv2d(inputs, outputs, 1, bias=False) for inputs, outputs in pairs)
        self.projections.to(net.mean.device)

    def teacher_outputs(self, images: Tensor) -> list[Tensor]:
        return super().teacher_outputs(images) + self._teacher_hooks.take()

    def distillation_terms(self, student: Tensor, teacher: Tensor, targets: Tensor) -> dict[str, tuple[float, Tensor]]:
        assert self._student_hooks is not None
        pairs = zip(self.projections, self._student_hooks.take(), self._features, strict=True)
        distances = [self.distance(project(own).float(), target.float()) for project, own, target in pairs]
        self._features = []
        terms = {"features": (self.beta, torch.stack(distances).mean())}
        if self.alpha:
            terms["teacher"] = (self.alpha, distillation_losses.kd_loss(student, teacher, self.temperature))
        return terms


def _check_weights(**weights: float) -> None:
    """Raise ModelError if a weight is negative, or if all are 0 and the teacher has no effect."""
    named = " and ".join(f"objective.{name}={weight}" for name, weight in weights.items())
    if any(weight < 0 for weight in weights.values()):
        raise ModelError(f"{named} is invalid: give weights of 0 or more")
    if not any(weights.values()):
        raise ModelError(f"{named}: the teacher does nothing; give a weight above 0, or objective=cross_entropy")


def _temperature(value: float) -> float:
    if not value > 0:
        raise ModelError(
            f"objective.temperature={value} is invalid: give a number above 0; 1 leaves the probabilities unchanged"
        )
    return value
