"""Grad-CAM on networks whose output depends on one known region."""

import pytest
import torch
from torch import nn

from lightning_modules.backbones.backbone import create_backbone
from lightning_modules.backbones.grad_cam import grad_cam, last_spatial_layer


class ChannelMeans(nn.Module):
    """The logit of class k is the mean of channel k."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.AvgPool2d(4)
        self.head = nn.Linear(3, 3)
        nn.init.eye_(self.head.weight)

    def forward(self, images):
        return self.head(self.features(images).mean((2, 3)))


def test_grad_cam_highlights_region_of_class():
    images = torch.zeros(2, 3, 16, 16)
    images[0, 0, :8, :8] = 1  # class 0: upper left
    images[1, 2, 8:, 8:] = 1  # class 2: lower right
    maps = grad_cam(ChannelMeans(), images, torch.tensor([0, 2]))
    assert maps.shape == (2, 4, 4)
    expected = torch.zeros(2, 4, 4)
    expected[0, :2, :2] = expected[1, 2:, 2:] = 1
    torch.testing.assert_close(maps, expected)


def test_grad_cam_is_zero_without_support():
    images = torch.zeros(1, 3, 16, 16)
    images[0, 0] = 1
    assert grad_cam(ChannelMeans(), images, torch.tensor([1])).max() == 0


@pytest.mark.parametrize(
    ("name", "size", "side"), [("lcnet_050", 96, 3), ("test_vit", 160, 10), ("test_byobnet", 32, 4)]
)
def test_grad_cam_map_size_of_timm_networks(name, size, side):
    net = create_backbone(name, 4, pretrained=False).train()
    images = torch.rand(2, 3, size, size)
    maps = grad_cam(net, images, torch.tensor([1, 3]))
    assert maps.shape == (2, side, side)
    assert maps.isfinite().all()
    assert 0 <= maps.min() <= maps.max() <= 1 + 1e-6
    assert net.training
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(layer._forward_hooks for layer in net.modules())


def test_grad_cam_rejects_network_without_spatial_features():
    with pytest.raises(ValueError, match="no spatial feature map"):
        last_spatial_layer(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), torch.zeros(1, 3, 4, 4))
