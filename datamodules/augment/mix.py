"""Mixup and cutmix on batches on the device, by kornia's classes."""

from typing import Any, NamedTuple

import numpy as np
import torch
from kornia.augmentation import RandomCutMixV2, RandomMixUpV2
from kornia.augmentation.random_generator import MixupGenerator
from torch import nn
from torch.distributions import Beta

from datamodules.augment.generator import OwnGenerator, batch_seed
from litesort.errors import DataError
from litesort.keyed_random import uniforms

_STREAM = 16  # stream of random numbers


class MixDraws(NamedTuple):
    """Parameters of mixup and cutmix for a batch.

    Attributes:
        kind: "mixup", "cutmix", or "none" if this batch is not mixed.
        params: Parameters of kornia's class.
    """

    kind: str
    params: dict[str, torch.Tensor]


class RandomMixUp(RandomMixUpV2):
    """kornia's mixup with the share of the partner drawn from Beta(alpha, alpha), as in the paper (Zhang et al., 2018).

    RandomMixUpV2 draws the share uniformly, which is alpha=1.

    Args:
        alpha: Above 0.
        same_on_batch: One share for the whole batch.
    """

    def __init__(self, alpha: float, same_on_batch: bool = False) -> None:
        super().__init__(same_on_batch=same_on_batch)
        self._param_generator = _BetaGenerator(alpha)

    def partners_and_shares(self, params: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the row of each sample's partner, (B,) int64, and the partner's share, (B,) float32."""
        return params["mixup_pairs"], params["mixup_lambdas"]


class _BetaGenerator(MixupGenerator):
    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        super().__init__()

    def make_samplers(self, device: torch.device, dtype: torch.dtype) -> None:
        super().make_samplers(device, dtype)
        alpha = torch.tensor(self.alpha, device=device, dtype=torch.float32)
        self.lambda_sampler = Beta(alpha, alpha)

    def __repr__(self) -> str:
        return f"alpha={self.alpha}"


class RandomCutMix(RandomCutMixV2):
    """kornia's cutmix (Yun et al., 2019) without synchronisation with the device.

    RandomCutMixV2 copies pixels by a boolean index, and the host waits until the device has counted the pixels.

    Args:
        alpha: The uncut share is drawn from Beta(alpha, alpha); above 0.
        same_on_batch: One box for the whole batch.
    """

    def __init__(self, alpha: float, same_on_batch: bool = False) -> None:
        super().__init__(beta=alpha, same_on_batch=same_on_batch, use_correct_lambda=True)

    def apply_transform(
        self, input: torch.Tensor, params: dict[str, torch.Tensor], maybe_flags: dict[str, Any] | None = None
    ) -> torch.Tensor:
        """Paste the box of each sample's partner: (B, C, H, W) float -> (B, C, H, W) float."""
        # corners are the outermost pixels of the box, inclusive
        (corner, *_), opposite = params["crop_src"][0].unbind(1), params["crop_src"][0, :, 2]
        across, down = (torch.arange(side, device=input.device) for side in (input.shape[-1], input.shape[-2]))
        across = (corner[:, :1] <= across) & (across <= opposite[:, :1])
        down = (corner[:, 1:] <= down) & (down <= opposite[:, 1:])
        box = down[:, None, :, None] & across[:, None, None]
        return torch.where(box, input.index_select(0, params["mix_pairs"][0]), input)

    def partners_and_shares(self, params: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the row of each sample's partner, (B,) int64, and the partner's share, (B,) float32."""
        corners = params["crop_src"][0]
        sides = corners[:, 2] - corners[:, 0] + 1
        return params["mix_pairs"][0], sides.prod(dim=1) / params["image_shape"].prod()


class Mixing(nn.Module):
    """Mixup and cutmix: blend images of a batch; targets become probabilities.

    Parameters are drawn from the keys of the whole batch.

    Args:
        mixup_alpha, cutmix_alpha: At least 0; 0 turns the method off. The share of the partner (mixup) or of the uncut
            area (cutmix) is drawn from Beta(alpha, alpha).
        probability: Probability that a batch is mixed.
        cutmix_share: Probability of cutmix if both are on.
        mode: "batch" draws one share or box for all images, "sample" one for each image.

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
        self.probability = probability if mixup_alpha > 0 or cutmix_alpha > 0 else 0.0
        self.cutmix_share = cutmix_share if mixup_alpha > 0 and cutmix_alpha > 0 else float(cutmix_alpha > 0)
        self._kinds = nn.ModuleDict()
        if mixup_alpha > 0:
            self._kinds["mixup"] = RandomMixUp(mixup_alpha, mode == "batch")
        if cutmix_alpha > 0:
            self._kinds["cutmix"] = RandomCutMix(cutmix_alpha, mode == "batch")

    @property
    def on(self) -> bool:
        """Whether batches can be mixed. Then `Augment.mix` returns targets as probabilities (B, C)."""
        return self.probability > 0

    def draw(self, keys: np.ndarray, size: int) -> MixDraws:
        """Draw parameters on the host for keys (B,) uint64, one a sample, and images of this side in pixels."""
        seed = batch_seed(keys, "mixing")
        mixed, cut = uniforms(np.array([seed], dtype=np.uint64), _STREAM, 2)[0].tolist()
        if mixed >= self.probability:
            return MixDraws("none", {})
        kind = "cutmix" if cut < self.cutmix_share else "mixup"
        module: Any = self._kinds[kind]
        with OwnGenerator(seed):
            params = module.generate_parameters((len(keys), 3, size, size))
        return MixDraws(kind, params)

    def forward(
        self, images: torch.Tensor, targets: torch.Tensor, num_classes: int, draws: MixDraws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix images (B, 3, S, S) float and targets (B,) int64; returned targets are (B, num_classes) float32 with
        sum 1.
        """
        # one_hot synchronises with the device to find the largest label
        soft = (targets[:, None] == torch.arange(num_classes, device=targets.device)).float()
        if draws.kind == "none":
            return images, soft
        module: Any = self._kinds[draws.kind]
        partners, shares = module.partners_and_shares(draws.params)
        mixed = torch.lerp(soft, soft.index_select(0, partners), shares[:, None])
        return module.apply_transform(images, draws.params, {}), mixed
