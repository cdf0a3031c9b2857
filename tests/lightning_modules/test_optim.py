import copy
import logging
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from lightning_modules.backbones.backbone import Backbone, create_backbone
from lightning_modules.optim import configure_optimizer, lr_factor
from litesort.errors import ModelError


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return create_backbone("lcnet_050", 3, pretrained=False)


def _train(net: Backbone, steps: int, **settings) -> list[torch.Tensor]:
    """Train a few steps on a fixed problem and return the parameters."""
    net = copy.deepcopy(net).eval()  # eval mode, so that batch statistics do not change the result
    optimizer, schedule = configure_optimizer(net, total_steps=steps, steps_per_epoch=steps, **settings)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), torch.tensor([0, 2])).backward()
        optimizer.step()
        schedule.step()
    return [p.detach() for p in net.parameters()]


def test_configure_fused_equals_unfused(backbone):
    fused = _train(backbone, 4, lr=1e-3, fused=True)
    plain = _train(backbone, 4, lr=1e-3, fused=False)
    start = list(backbone.parameters())
    for a, b, before in zip(fused, plain, start, strict=True):
        moved = (b - before).abs().max()
        assert (a - b).abs().max() <= 1e-6 + 1e-2 * moved
    assert any((b - before).abs().max() > 1e-4 for b, before in zip(plain, start, strict=True))


def test_configure_uses_fused_adamw_only(backbone):
    assert configure_optimizer(backbone, total_steps=4, steps_per_epoch=2)[0].defaults["fused"]
    assert not configure_optimizer(backbone, total_steps=4, steps_per_epoch=2, fused=False)[0].defaults["fused"]
    assert not configure_optimizer(backbone, name="sgd", total_steps=4, steps_per_epoch=2)[0].defaults["fused"]


@pytest.mark.parametrize("layer_decay", [None, 0.8])
def test_configure_excludes_norms_and_biases_from_decay(backbone, layer_decay):
    extra = nn.Parameter(torch.zeros(3))
    optimizer, _ = configure_optimizer(
        backbone, weight_decay=0.1, layer_decay=layer_decay, total_steps=9, steps_per_epoch=3, extra_parameters=[extra]
    )
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decays) == len(list(backbone.parameters())) + 1
    for parameter in backbone.parameters():
        assert decays[id(parameter)] == (0.1 if parameter.ndim > 1 else 0.0)


def test_configure_respects_no_weight_decay_of_timm():
    net = create_backbone("deit_tiny_distilled_patch16_224", 3, pretrained=False, kwargs={"img_size": 32, "depth": 1})
    optimizer, _ = configure_optimizer(net, weight_decay=0.1, total_steps=9, steps_per_epoch=3)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name in ("pos_embed", "cls_token", "dist_token"):
        assert decays[id(net.net.get_parameter(name))] == 0


def test_configure_layer_decay_reduces_lr_away_from_head(backbone):
    optimizer, _ = configure_optimizer(
        backbone, lr=0.01, layer_decay=0.5, warmup_epochs=0, total_steps=9, steps_per_epoch=3, schedule="constant"
    )
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(backbone.head_parameters()[0])] == pytest.approx(0.01)
    body = [rates[id(p)] for p in backbone.net.blocks.parameters()]
    assert body == sorted(body)
    assert rates[id(backbone.net.conv_stem.weight)] == min(rates.values()) < 0.5 * max(rates.values())


def test_configure_excludes_frozen_parameters(backbone):
    net = copy.deepcopy(backbone)
    net.net.conv_stem.requires_grad_(False)
    optimizer, _ = configure_optimizer(net, total_steps=9, steps_per_epoch=3)
    assert net.net.conv_stem.weight not in {p for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_lr_factor_rises_falls_and_ends_at_floor(schedule):
    rates = [lr_factor(step, 100, 10, 0.05, schedule) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == max(rates) == 1
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.05 < rates[99] < 0.07  # the last step still has a useful learning rate
    assert lr_factor(100, 100, 10, 0.05, schedule) == pytest.approx(0.05)
    assert lr_factor(150, 100, 10, 0.05, schedule) == pytest.approx(0.05)  # a step after the end of the schedule


def test_lr_factor_cosine_equals_torch():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.1)
    for step in range(20):
        assert lr_factor(step, 20, 0, 0.1) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-6)
        optimizer.step()
        schedule.step()


def test_configure_limits_warmup_to_half_of_run(backbone, caplog):
    with caplog.at_level(logging.INFO):
        optimizer, schedule = configure_optimizer(backbone, lr=1.0, warmup_epochs=5, total_steps=10, steps_per_epoch=10)
    assert "warming up for 5 of 10 steps" in caplog.text
    for _ in range(4):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "lion"}, r"optimizer\.name=lion"),
        ({"lr": 0.0}, r"optimizer\.lr=0\.0"),
        ({"lr": float("nan")}, r"optimizer\.lr=nan"),
        ({"weight_decay": -1.0}, r"optimizer\.weight_decay=-1\.0"),
        ({"layer_decay": 1.0}, r"optimizer\.layer_decay=1\.0"),
        ({"warmup_epochs": -1}, r"optimizer\.warmup_epochs=-1"),
        ({"min_lr": 0.1, "lr": 0.01}, r"optimizer\.min_lr=0\.1"),
        ({"name": "sgd", "momentum": -0.9}, r"optimizer\.momentum=-0\.9"),
        ({"betas": [0.9]}, r"optimizer\.betas=\[0\.9\]"),
        ({"betas": [0.9, 1.0]}, r"optimizer\.betas="),
        ({"schedule": "step"}, r"optimizer\.schedule=step"),
        ({"schedule": "constant", "min_lr": 1e-5}, "has no effect"),
    ],
)
def test_configure_rejects_invalid_settings(backbone, settings, message):
    with pytest.raises(ModelError, match=message):
        configure_optimizer(backbone, total_steps=9, steps_per_epoch=3, **settings)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_optimizer_configs_build_optimisers(backbone, name):
    folder = Path(__file__).parents[2] / "conf" / "optimizer"
    cfg = OmegaConf.merge(OmegaConf.load(folder / "_base.yaml"), OmegaConf.load(folder / f"{name}.yaml"))
    del cfg["defaults"]
    partial = instantiate(cfg)
    optimizer, _ = partial(backbone, lr=partial.keywords["lr"], total_steps=9, steps_per_epoch=3)
    assert type(optimizer).__name__.lower() == cfg.name == name
    assert optimizer.param_groups[-1]["weight_decay"] == cfg.weight_decay
