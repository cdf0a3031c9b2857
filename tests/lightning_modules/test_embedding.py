import torch
from torch import nn

from lightning_modules.backbones import create_backbone
from lightning_modules.embedding import _fold_norms


@torch.no_grad()
def test_folding_batch_norms_into_convolutions_changes_no_feature():
    torch.manual_seed(0)
    net = create_backbone("tf_efficientnet_lite0", 2, pretrained=False).eval()
    for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(0.5, 1.5)
    photos = torch.rand(2, 3, 64, 64)
    before = net.net.forward_features(photos)
    _fold_norms(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    torch.testing.assert_close(net.net.forward_features(photos), before, rtol=1e-3, atol=1e-4)
