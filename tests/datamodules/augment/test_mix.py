"""Mixup and cutmix: shares, boxes, partners and targets."""

import numpy as np
import pytest
import torch

from datamodules.augment.mix import Mixing, beta_quantile
from datamodules.augment.pipeline import Augment
from litesort.errors import DataError
from litesort.keyed_random import splitmix64

BATCH, SIZE = 32, 20
KEYS = splitmix64(np.arange(BATCH, dtype=np.uint64))
TARGETS = torch.arange(BATCH)
# every sample has a value of its own, so that a mixed pixel tells what it is made of
IMAGES = (torch.arange(BATCH).float() + 1)[:, None, None, None].expand(-1, 3, SIZE, SIZE).contiguous()


@pytest.mark.parametrize("mode", ["batch", "sample"])
@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixing_targets_match_pixel_shares(mode: str, alphas: tuple[float, float]) -> None:
    mixing = Mixing(*alphas, mode=mode)
    draws = mixing.draw(KEYS)
    images, soft = mixing(IMAGES, TARGETS, BATCH, draws)
    assert soft.shape == (BATCH, BATCH)
    torch.testing.assert_close(soft.sum(1), torch.ones(BATCH))
    assert soft.min() >= 0
    expected = (soft * (torch.arange(BATCH) + 1)).sum(1)
    torch.testing.assert_close(images.mean(dim=(1, 2, 3)), expected, rtol=1e-4, atol=1e-3)
    own = soft[torch.arange(BATCH), TARGETS]
    assert (own.max() - own.min() < 0.05) == (mode == "batch")


def test_cutmix_takes_one_box_of_the_partner() -> None:
    mixing = Mixing(cutmix_alpha=1.0, mode="sample")
    draws = mixing.draw(KEYS)
    images, soft = mixing(IMAGES, TARGETS, BATCH, draws)
    for row in range(BATCH):
        foreign = images[row, 0] == draws.partners[row] + 1
        assert ((images[row, 0] == row + 1) | foreign).all()
        assert abs(soft[row, draws.partners[row]] - foreign.float().mean()) < 1e-6
        rows, columns = foreign.any(1).nonzero(), foreign.any(0).nonzero()
        if len(rows):
            assert foreign[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


def test_every_sample_has_another_as_partner_once() -> None:
    partners = Mixing(mixup_alpha=1.0).draw(KEYS).partners
    assert sorted(partners.tolist()) == list(range(BATCH))
    assert (partners != torch.arange(BATCH)).all()
    assert Mixing(mixup_alpha=1.0).draw(KEYS[:1]).partners.tolist() == [0]


def test_partners_follow_the_samples_through_a_shuffle() -> None:
    order = np.random.default_rng(1).permutation(BATCH)
    plain, shuffled = (Mixing(mixup_alpha=1.0, mode="sample").draw(keys) for keys in (KEYS, KEYS[order]))
    assert KEYS[plain.partners.numpy()][order].tolist() == KEYS[order][shuffled.partners.numpy()].tolist()
    assert torch.equal(plain.numbers[order], shuffled.numbers)


def test_probability_is_of_samples_or_of_batches() -> None:
    keys = splitmix64(np.arange(4000, dtype=np.uint64))
    assert Mixing(0.2, probability=0.3, mode="sample").draw(keys).numbers[:, 0].lt(1).float().mean() == pytest.approx(
        0.3, abs=0.03
    )
    batches = [Mixing(0.2, probability=0.3).draw(some).mixup for some in keys.reshape(400, 10)]
    assert np.mean(batches) == pytest.approx(0.3, abs=0.08)
    shares = [Mixing(0.2, 1.0, cutmix_share=0.75).draw(some).cutmix for some in keys.reshape(400, 10)]
    assert np.mean(shares) == pytest.approx(0.75, abs=0.08)


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 5.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    levels = (np.arange(20_000) + 0.5) / 20_000
    values = beta_quantile(levels, alpha)
    assert (np.diff(values) >= 0).all()
    assert values.mean() == pytest.approx(0.5, abs=1e-3)
    assert values.var() == pytest.approx(0.25 / (2 * alpha + 1), rel=0.01)
    reference = np.sort(np.random.default_rng(0).beta(alpha, alpha, 200_000))
    at = [0.02, 0.1, 0.3, 0.5, 0.8]
    np.testing.assert_allclose(np.interp(at, levels, values), np.quantile(reference, at), atol=0.01)


def test_mixing_off_returns_inputs() -> None:
    for mixing in (None, Mixing(), Mixing(mixup_alpha=0.2, probability=0.0)):
        augment = Augment(num_ops=0, hflip=0.0, mixing=mixing)
        draws = augment.draw(KEYS)
        assert draws.mix is None
        images, targets = augment.mix(IMAGES, TARGETS, BATCH, draws)
        assert images is IMAGES
        assert targets is TARGETS


def test_augment_mixes_by_the_same_keys() -> None:
    augment = Augment(mixing=Mixing(mixup_alpha=1.0))
    first, second = (augment.mix(IMAGES, TARGETS, BATCH, augment.draw(KEYS)) for _ in range(2))
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
