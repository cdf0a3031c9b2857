"""Mixup and cutmix: weights, boxes, partners and targets."""

import numpy as np
import pytest
import torch
from kornia.augmentation import RandomCutMixV2
from policies import policy

from datamodules.augment.mix import Mixing
from litesort.errors import DataError
from litesort.keyed_random import splitmix64

BATCH, SIZE = 32, 20
KEYS = splitmix64(np.arange(BATCH, dtype=np.uint64))
TARGETS = torch.arange(BATCH)
# every sample has a different value: a mixed pixel shows which samples it is mixed from
IMAGES = (torch.arange(BATCH).float() + 1)[:, None, None, None].expand(-1, 3, SIZE, SIZE).contiguous()


@pytest.mark.parametrize("mode", ["batch", "sample"])
@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixing_targets_match_pixel_shares(mode: str, alphas: tuple[float, float]) -> None:
    mixing = Mixing(*alphas, mode=mode)
    images, soft = mixing(IMAGES, TARGETS, BATCH, mixing.draw(KEYS, SIZE))
    assert soft.shape == (BATCH, BATCH)
    torch.testing.assert_close(soft.sum(1), torch.ones(BATCH))
    assert soft.min() >= 0
    expected = (soft * (torch.arange(BATCH) + 1)).sum(1)
    torch.testing.assert_close(images.mean(dim=(1, 2, 3)), expected, rtol=1e-4, atol=1e-3)
    own = soft[torch.arange(BATCH), TARGETS]
    own = own[own < 1]  # kornia may pair a sample with itself
    assert len(own) > BATCH / 2
    assert (own.max() - own.min() < 0.05) == (mode == "batch")


def test_cutmix_equals_kornia_and_pastes_one_box() -> None:
    mixing = Mixing(cutmix_alpha=1.0, mode="sample")
    draws = mixing.draw(KEYS, SIZE)
    images, soft = mixing(IMAGES, TARGETS, BATCH, draws)
    reference = RandomCutMixV2(use_correct_lambda=True)
    assert torch.equal(images, reference.apply_transform(IMAGES, draws.params))
    (partners,) = draws.params["mix_pairs"]
    for row in range(BATCH):
        if partners[row] == row:
            continue
        pasted = images[row, 0] == partners[row] + 1
        assert abs(soft[row, partners[row]] - pasted.float().mean()) < 1e-6
        rows, columns = pasted.any(1).nonzero(), pasted.any(0).nonzero()
        if len(rows):
            assert pasted[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


def test_share_of_mixed_batches_equals_the_probability() -> None:
    keys = splitmix64(np.arange(4000, dtype=np.uint64)).reshape(400, 10)
    kinds = [Mixing(0.2, 1.0, probability=0.6, cutmix_share=0.75).draw(batch, SIZE).kind for batch in keys]
    assert kinds.count("none") / 400 == pytest.approx(0.4, abs=0.08)
    assert kinds.count("cutmix") / 400 == pytest.approx(0.45, abs=0.08)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 5.0])
def test_mixup_shares_follow_the_beta_distribution(alpha: float) -> None:
    keys = splitmix64(np.arange(20_000, dtype=np.uint64))
    values = Mixing(mixup_alpha=alpha, mode="sample").draw(keys, SIZE).params["mixup_lambdas"]
    assert values.mean() == pytest.approx(0.5, abs=0.01)
    assert values.var() == pytest.approx(0.25 / (2 * alpha + 1), rel=0.03)


def test_mixing_off_returns_inputs() -> None:
    for mixing in (None, Mixing(), Mixing(mixup_alpha=0.2, probability=0.0)):
        augment = policy(num_ops=0, mixing=mixing)
        draws = augment.draw(KEYS, SIZE)
        assert draws.mix is None
        images, targets = augment.mix(IMAGES, TARGETS, BATCH, draws)
        assert images is IMAGES
        assert targets is TARGETS


def test_equal_keys_give_equal_mixes() -> None:
    augment = policy(mixing=Mixing(mixup_alpha=1.0))
    first, second = (augment.mix(IMAGES, TARGETS, BATCH, augment.draw(KEYS, SIZE)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], IMAGES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixup_alpha": -1.0}, "mixup_alpha=-1.0"),
        ({"probability": 2.0}, "probability=2.0.*0 to 1"),
        ({"mode": "epoch"}, "mode=epoch.*batch or sample"),
    ],
)
def test_invalid_settings_raise_data_error(settings: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Mixing(**settings)
