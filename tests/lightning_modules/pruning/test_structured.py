"""Structured pruning of every model in conf/model, and its replay from the steps in a checkpoint."""

import copy
import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.backbones.backbone import create_backbone
from lightning_modules.checkpoint import MODEL_CARD, build_net, make_model_card
from lightning_modules.pruning.replay import replay, structure_diff
from lightning_modules.pruning.structured import find_ratio, gather_gradients, prune, unprunable_layers, widths
from litesort.errors import ModelError

tp = pytest.importorskip("torch_pruning")

CLASSES = ["Metal", "Paper", "Plastic"]
MODELS = Path(__file__).parents[3] / "conf" / "model"
NAMES = sorted({OmegaConf.load(path).name for path in MODELS.glob("[!_]*.yaml") if path.stem != "timm"})
SIZE = 32
# Ratios that halve the MACs. Layers that share channels with the stem are not pruned, so the others need a larger
# ratio. A concatenation loses channels in both inputs, so it needs a smaller one.
RATIOS = {"fastvit_t8": 0.6, "deit_tiny_distilled_patch16_224": 0.6, "ghostnet_100": 0.22}


def build(name):
    torch.manual_seed(0)
    small = {"img_size": SIZE, "depth": 2} if "deit" in name else {}
    return create_backbone(name, 3, pretrained=False, kwargs=small).eval()


def macs(net):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, SIZE, SIZE))
    return counter.get_total_flops() // 2


def rebuilt(net):
    """Rebuild a network from a model card that went through JSON."""
    card = json.loads(json.dumps(make_model_card(net, CLASSES, preprocessing={"size": SIZE})))
    return build_net({MODEL_CARD: card, "state_dict": {f"net.{key}": value for key, value in net.state_dict().items()}})


@pytest.mark.parametrize("name", NAMES)
def test_prune_halves_macs_and_replay_is_exact(name):
    net = build(name)
    start, protected = copy.deepcopy(net.state_dict()), unprunable_layers(net, SIZE)
    ratio = RATIOS.get(name, 0.33)
    small = prune(net, SIZE, ratio, protected=protected)
    assert 0.3 < macs(small) / macs(net) < 0.6
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        outputs = small(images)
        torch.testing.assert_close(rebuilt(small)(images), outputs, rtol=0, atol=0)
    assert outputs.shape == (2, 3)
    assert outputs.isfinite().all()
    torch.testing.assert_close(net.state_dict(), start, rtol=0, atol=0)
    old, new = widths(net), widths(small)
    assert all(new[layer] == old[layer] for layer in protected)
    assert set(net.head_names) < set(protected)
    pruned = {layer: new[layer] for layer in new if new[layer] != old[layer] and "qkv" not in layer}
    if name != "ghostnet_100":  # it concatenates pairs of layers, and the sum of a pair is rounded
        assert all(channels % 8 == 0 for channels in pruned.values()), pruned


@pytest.mark.parametrize("name", ["resnet10t", "ghostnet_100", "mobilenetv4_conv_small"])
def test_prune_removes_zero_channels_without_changing_outputs(name):
    """Set the pruned channels to zero in the original: the outputs of both networks must be equal."""
    net = build(name)
    norms = {n: m for n, m in net.net.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    with torch.no_grad():
        for parameter in net.head_parameters():
            parameter.normal_()
        for number, norm in enumerate(norms.values()):  # distinct weights identify the removed channels
            norm.weight.copy_(torch.rand(norm.num_features, generator=torch.Generator().manual_seed(number)) + 0.5)
    biased = [n for n, m in net.net.named_modules() if not isinstance(m, torch.nn.BatchNorm2d) and _has_bias(m)]
    protected = unprunable_layers(net, SIZE) | dict.fromkeys(biased, "no norm follows it")
    small = prune(net, SIZE, 0.3, protected=protected)
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        unpruned = net(images)
        for key, norm in norms.items():
            removed = ~torch.isin(norm.weight, small.net.get_submodule(key).weight)
            norm.weight[removed] = 0.0
        outputs = net(images)
        scale = outputs.abs().max()
        torch.testing.assert_close(small(images) / scale, outputs / scale, rtol=0, atol=1e-5)
    assert (outputs - unpruned).abs().max() > 1e-3 * scale


def _has_bias(module):
    return getattr(module, "bias", None) is not None


def test_replay_applies_several_steps():
    net = build("lcnet_050")
    twice = prune(prune(net, SIZE, 0.2), SIZE, 0.3)
    assert len(twice.pruning) == 2
    assert macs(twice) < macs(prune(net, SIZE, 0.2))
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(twice)(images), twice(images), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("importance", "scope"), [("taylor", "uniform"), ("bn_scale", "uniform"), ("magnitude", "global")]
)
def test_prune_importance_and_scope_change_channels(importance, scope):
    net = build("lcnet_050")
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
    images = [(torch.rand(4, 3, SIZE, SIZE), torch.tensor([0, 1, 2, 0]))] * 3
    assert gather_gradients(net, images, 2) == 2
    plain = prune(net, SIZE, 0.3)
    other = prune(net, SIZE, 0.3, importance=importance, scope=scope)
    first, second = plain.state_dict(), other.state_dict()
    assert any(not torch.equal(first[key], second[key]) for key in first)
    assert all(p.grad is None for p in other.parameters())


def test_gather_gradients_equals_cross_entropy_in_eval_mode():
    net = build("lcnet_050").train()
    means = net.net.bn1.running_mean.clone()
    images, targets = torch.rand(4, 3, SIZE, SIZE), torch.tensor([0, 1, 2, 0])
    gather_gradients(net, [(images, targets, None)], 8)
    assert net.training
    torch.testing.assert_close(net.net.bn1.running_mean, means)
    got = net.net.classifier.weight.grad.clone()
    net.zero_grad()
    torch.nn.functional.cross_entropy(net.eval()(images), targets).backward()
    torch.testing.assert_close(got, net.net.classifier.weight.grad)


def test_prune_bn_scale_rejects_network_without_batchnorm():
    with pytest.raises(ModelError, match="has no BatchNorm"):
        prune(build("convnext_atto"), SIZE, 0.3, importance="bn_scale")


def test_find_ratio_returns_smallest_ratio():
    assert find_ratio(lambda ratio: 1 - ratio, 0.5, "x", trials=12) == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(ModelError, match=r"prune\.macs=0\.1 is out of reach: at least 0\.60 of the cost remains"):
        find_ratio(lambda ratio: max(0.6, 1 - ratio), 0.1, "prune.macs=0.1")


def test_unprunable_layers_gives_reasons():
    reasons = unprunable_layers(build("resnet18"), SIZE)
    assert reasons["fc"] == "head"
    assert reasons["conv1"] == "stem"
    assert "conv1" in reasons["layer1.0.conv2"]
    assert "layer2.0.conv1" not in reasons


@pytest.mark.parametrize(
    "step",
    [
        {"sizes": {"layer9": {"out_channels": 8}}, "shapes": {}},
        {"sizes": {"conv_stem": {"forward": 8}}, "shapes": {}},
        {"sizes": {"conv_stem": {"out_channels": "8"}}, "shapes": {}},
        {"sizes": {"conv_stem": {"kernel_size": [3]}}, "shapes": {}},
        {"sizes": {}, "shapes": {"conv_stem.weight": [10**9, 3, 3, 3]}},
        {"sizes": {}, "shapes": {"conv_stem.weight": [8]}},
        {"sizes": {}, "shapes": {"nothing.weight": [8]}},
        {"layer": "conv_stem"},
    ],
)
def test_replay_rejects_steps_of_another_network(step):
    with pytest.raises(ModelError, match="pruning step 0 does not fit"):
        replay(build("lcnet_050").net, [step])


def test_structure_diff_of_equal_networks_is_empty():
    net = build("fastvit_t8").net
    assert structure_diff(net, copy.deepcopy(net)) == {"sizes": {}, "shapes": {}}
