"""Folded networks have the outputs and feature maps of the original networks."""

import copy

import pytest
import torch
from torch import nn

from lightning_modules.backbones.backbone import create_backbone
from lightning_modules.backbones.fold_batchnorm import fold_batchnorm
from lightning_modules.objectives.hooks import FeatureHooks

SIZE = 64
CONVOLUTIONAL = [
    "resnet18d", "resnet50", "mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv4_conv_small", "lcnet_050",
    "tf_efficientnet_lite0", "ghostnet_100", "repvgg_a0", "fastvit_t8",
]  # fmt: skip


def build(name):
    """Build a network with random norms and a random head, so that an error in a fold changes the outputs."""
    kwargs = {"img_size": SIZE, "depth": 2} if "deit" in name else {}
    net = create_backbone(name, 3, pretrained=False, kwargs=kwargs).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
            for tensor, low in (
                (norm.weight, 0.5),
                (norm.running_var, 0.5),
                (norm.bias, -0.1),
                (norm.running_mean, -0.1),
            ):
                tensor.copy_(low + torch.rand(tensor.shape, generator=generator) * (1.0 if low > 0 else 0.2))
        for head in net.head_parameters():
            head.normal_(0, 0.1, generator=generator)
    return net


def count_norms(net):
    return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())


@torch.no_grad()
def outputs_of(net, images):
    """Return the logits and the feature maps of all levels."""
    hooks = FeatureHooks(net, [-2, -1])
    logits = net(images)
    return [logits, *hooks.take()]


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_fold_batchnorm_keeps_outputs_and_features(name):
    net, images = build(name), torch.rand(2, 3, SIZE, SIZE)
    before = copy.deepcopy(net.state_dict())
    folded = fold_batchnorm(net)
    assert count_norms(folded) < count_norms(net) / 2
    for got, expected in zip(outputs_of(folded, images), outputs_of(net, images), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


def test_fold_batchnorm_returns_original_if_execution_order_differs():
    net = build("resnet18d")
    norm = net.net.layer1[0].bn1
    forward = norm.forward
    norm.forward = lambda features: forward(features.abs())  # an operation between convolution and norm
    assert fold_batchnorm(net) is net


def test_fold_batchnorm_keeps_transformer():
    net, images = build("deit_tiny_distilled_patch16_224"), torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(fold_batchnorm(net)(images), net(images), rtol=0, atol=0)
