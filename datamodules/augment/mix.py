"""Mixup and cutmix on batches on the device."""

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from litesort.errors import DataError
from litesort.keyed_random import uniforms

_STREAM = 16


class MixDraws(NamedTuple):
    """Parameters of mixup and cutmix for a batch.

    Attributes:
        partners: (B,) int64, row that each sample is mixed with.
        numbers: (B, 5) float32: the sample's own share in mixup, and the cutmix box: left, top, width, height in [0,
            1].
        mixup, cutmix: Whether any sample uses it.
    """

    partners: torch.Tensor
    numbers: torch.Tensor
    mixup: bool
    cutmix: bool

    def pin_memory(self) -> "MixDraws":
        """The same draws in page-locked memory."""
        return self._replace(partners=self.partners.pin_memory(), numbers=self.numbers.pin_memory())


class Mixing(nn.Module):
    """Mixup (Zhang et al., 2018) and cutmix (Yun et al., 2019): blend samples of a batch; targets become probabilities.

    Cutmix boxes are entirely inside the image, so that the shares keep their distribution. Partners are other samples
    of the batch, so mixed pixels depend on the batch.

    Args:
        mixup_alpha, cutmix_alpha: The share of a sample is drawn from Beta(alpha, alpha), at least 0; 0 turns it off.
        probability: Probability that a sample (or a batch) is mixed.
        cutmix_share: Probability of cutmix if both are on.
        mode: "batch" draws once for all samples, "sample" for each sample.

    Raises:
        DataError: A setting is invalid.
    """

    def __init__(
        self,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        probability: float = 1.0,
        cutmix_share: float = 0.5,
        mode: str = "batch",
    ) -> None:
        super().__init__()
        for name, value in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
            if value < 0:
                raise DataError(f"augment.mixing.{name}={value} is invalid: expected a number of at least 0 (0: off)")
        for name, value in (("probability", probability), ("cutmix_share", cutmix_share)):
            if not 0 <= value <= 1:
                raise DataError(f"augment.mixing.{name}={value} is invalid: expected a number from 0 to 1")
        if mode not in ("batch", "sample"):
            raise DataError(f"augment.mixing.mode={mode} is invalid: expected batch or sample")
        both = mixup_alpha > 0 and cutmix_alpha > 0
        self.probability = probability if mixup_alpha > 0 or cutmix_alpha > 0 else 0.0
        self.cutmix_share = cutmix_share if both else float(cutmix_alpha > 0)
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha
        self.mode = mode

    @property
    def on(self) -> bool:
        """Whether any sample can be mixed. Then targets are probabilities (B, C)."""
        return self.probability > 0

    def draw(self, keys: np.ndarray) -> MixDraws:
        """Draw parameters on the host for keys (B,) uint64, one a sample."""
        drawn = uniforms(keys, _STREAM, 6)
        ring = np.argsort(drawn[:, 5], kind="stable")
        partners = np.empty(len(keys), dtype=np.int64)
        partners[ring] = np.roll(ring, 1)
        if self.mode == "batch":
            drawn = np.repeat(drawn[ring[:1]], len(keys), axis=0)
        mixed = drawn[:, 0] < self.probability
        cut = mixed & (drawn[:, 1] < self.cutmix_share)
        blended = mixed & ~cut
        own = np.where(cut, beta_quantile(drawn[:, 2], self.cutmix_alpha), beta_quantile(drawn[:, 2], self.mixup_alpha))
        side = np.where(cut, np.sqrt(1 - own), 0.0)
        numbers = np.stack(
            [np.where(blended, own, 1.0), drawn[:, 3] * (1 - side), drawn[:, 4] * (1 - side), side, side], axis=1
        )
        return MixDraws(
            torch.from_numpy(partners),
            torch.from_numpy(numbers.astype(np.float32)),
            bool(blended.any()),
            bool(cut.any()),
        )

    def forward(
        self, images: torch.Tensor, targets: torch.Tensor, num_classes: int, draws: MixDraws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix images (B, 3, S, S) float and targets (B,) int64; returned targets are (B, num_classes) float32 with
        sum 1.
        """
        # one_hot synchronises with the device to find the largest label
        classes = torch.arange(num_classes, device=targets.device)
        soft = (targets[:, None] == classes).float()
        own = draws.numbers[:, 0]
        other = images.index_select(0, draws.partners) if draws.mixup or draws.cutmix else images
        if draws.mixup:
            images = torch.lerp(other, images, own[:, None, None, None])
        if draws.cutmix:
            box = _box(draws.numbers[:, 1:], images.shape[-1])
            images = torch.where(box[:, None], other, images)
            own = own * (1 - box.float().mean(dim=(1, 2)))
        return images, torch.lerp(soft.index_select(0, draws.partners), soft, own[:, None])


def _box(numbers: torch.Tensor, size: int) -> torch.Tensor:
    centres = (torch.arange(size, device=numbers.device) + 0.5) / size
    near, far = numbers[:, :2, None], numbers[:, :2, None] + numbers[:, 2:, None]
    across, down = ((near <= centres) & (centres < far)).unbind(1)
    return down[:, :, None] & across[:, None]


def beta_quantile(levels: np.ndarray, alpha: float) -> np.ndarray:
    """Quantile function of Beta(alpha, alpha): levels in [0, 1) -> values in [0, 1]; 1 if alpha is 0.

    Below one half, the distribution function is nearly linear in x^alpha, so that a table is accurate; above, by
    symmetry.

    >>> beta_quantile(np.array([0.25, 0.5, 0.75]), 1.0).round(6).tolist()
    [0.25, 0.5, 0.75]
    """
    if alpha <= 0:
        return np.ones_like(levels)
    values = 0.5 * np.linspace(0, 1, 1025) ** max(1.0, 1 / alpha)
    powers, density = values**alpha, (1 - values) ** (alpha - 1)
    heights = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) * np.diff(powers))])
    lower = np.interp(np.minimum(levels, 1 - levels), 0.5 * heights / heights[-1], powers) ** (1 / alpha)
    return np.where(levels < 0.5, lower, 1 - lower)
