import pytest
import timm
import torch
from torch import nn

from deployment.complexity import eval_mode, profile, size_in_bytes
from litesort.errors import DeploymentError


def test_profile_of_resnet18_equals_published_values():
    cost = profile(timm.create_model("resnet18"), 224)
    assert cost["params"] == 11_689_512
    assert cost["macs"] == pytest.approx(1.82e9, rel=0.01)


def test_macs_of_convolutions_and_linear_layers():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),  # 20*20 * 8 * 3*9
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),  # 10*10 * 8 * 9
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),  # 8*5
    )
    assert profile(net, 20) == {"params": 216 + 80 + 45, "macs": 400 * 216 + 100 * 72 + 40}


def test_macs_of_fused_attention():
    class Attention(nn.Module):
        def forward(self, images):
            tokens = images.reshape(1, 2, 6, 16)  # (B, heads, tokens, width), as the fused kernel takes it
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)

    assert profile(Attention(), 8) == {"params": 0, "macs": 2 * (2 * 6 * 6 * 16)}


def test_profile_does_not_change_the_network():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).double().train()
    net[1].eval()
    state = torch.get_rng_state()
    profile(net, 8)
    assert [module.training for module in net.modules()] == [True, True, False, True]
    assert net[0].weight.dtype == torch.float64
    assert net[0].weight.requires_grad
    assert net[1].num_batches_tracked == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_evaluating_restores_modes_after_an_error():
    net = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    net.training = True
    modes = []

    def fail():
        with eval_mode(net):
            modes.append(net[0].training)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert modes == [False]
    assert (net[0].training, net[1].training) == (True, False)


def test_profile_refuses_a_size_below_one():
    with pytest.raises(DeploymentError, match="size=0"):
        profile(nn.Conv2d(3, 1, 1), 0)


def test_size_in_bytes_of_networks_and_exported_files(tmp_path):
    assert size_in_bytes("any.ckpt", nn.Conv2d(3, 8, 3)) == 4 * (216 + 8)
    (tmp_path / "model.xml").write_bytes(b"12345")
    (tmp_path / "model.bin").write_bytes(b"123")
    assert size_in_bytes(tmp_path / "model.xml", None) == 8
    assert size_in_bytes(tmp_path / "model.bin", None) == 3
