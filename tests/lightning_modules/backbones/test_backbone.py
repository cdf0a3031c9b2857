import logging
import math
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from lightning_modules.backbones.backbone import Backbone, create_backbone
from lightning_modules.objectives.base import CrossEntropy
from lightning_modules.optim import configure_optimizer
from litesort.errors import ModelError

CONF = Path(__file__).parents[3] / "conf" / "model"
FILES = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "_base")
SIZE = 64


def _config(stem: str, **overrides):
    """Compose the file with _base, like Hydra."""
    own = OmegaConf.load(CONF / f"{stem}.yaml")
    assert list(own.pop("defaults")) == ["_base", "_self_"]
    merged = OmegaConf.merge(OmegaConf.load(CONF / "_base.yaml"), own, overrides)
    return OmegaConf.create({"data": {"size": SIZE}, "model": merged}).model


def test_model_configs_include_documented_backbones():
    documented = """
        mobilenetv2 mobilenetv3 mobilenetv3_small mobilenetv4_small resnet18 resnet18d resnet26d resnet34d resnet50
        resnet50d efficientnet_lite0 efficientnet_lite1 efficientnet_lite2 efficientnet_b0 lcnet_050 lcnet_100 ghostnet
        repvgg_a0 fastvit_t8 convnext_atto
        deit_tiny_distilled timm
    """
    assert set(documented.split()) <= set(FILES)


@pytest.mark.parametrize("stem", FILES)
def test_model_config_trains_and_evaluates(stem, monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("network access"))
    settings = {"name": "regnetx_002"} if stem == "timm" else {}
    net = instantiate(_config(stem, pretrained=False, **settings), num_classes=6)
    net = net.to(memory_format=torch.channels_last)
    images = torch.rand(2, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    before = [p.detach().clone() for p in net.parameters()]

    optimizer, _ = configure_optimizer(net, lr=1e-3, layer_decay=0.9, warmup_epochs=0, total_steps=2, steps_per_epoch=1)
    output = net.train()(images)
    assert isinstance(output, tuple) == (stem == "deit_tiny_distilled")
    CrossEntropy()(output, torch.tensor([0, 5]))["loss"].backward()
    assert all(p.grad is not None for p in net.parameters())
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))

    with torch.inference_mode():
        logits = net.eval()(images)
    assert logits.shape == (2, 6)
    assert logits.isfinite().all()
    head = net.head_parameters()
    assert len(head) == (4 if stem == "deit_tiny_distilled" else 2)
    assert all(p.shape[0] == 6 for p in head)


@pytest.mark.parametrize("stem", ["resnet18d", "mobilenetv3_small", "ghostnet", "fastvit_t8", "deit_tiny_distilled"])
def test_backbone_forward_is_exportable(stem):
    net = instantiate(_config(stem, pretrained=False), num_classes=6).eval()
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        captured = torch.export.export(net, (images,)).module()
        torch.testing.assert_close(captured(images), net(images))


def test_backbone_normalises_images():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def get_classifier(self):
            return self.fc

        def forward(self, x):
            return x.mean(dim=(2, 3))

    net = Backbone(Mean(), name="mean", num_classes=3, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    images = torch.full((1, 3, 4, 4), 0.6)
    torch.testing.assert_close(net(images), torch.tensor([[1.0, 0.4, 0.15]]))
    assert net.head_names == ("fc",)


def test_create_backbone_normalises_as_weights_or_settings_require():
    lite = create_backbone("tf_efficientnet_lite0", 3, pretrained=False)
    assert lite.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])  # ImageNet statistics without weights
    custom = create_backbone("lcnet_050", 3, pretrained=False, mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
    assert custom.std.flatten().tolist() == [0.25] * 3
    with pytest.raises(ModelError, match=r"model\.std=.*above 0"):
        create_backbone("lcnet_050", 3, pretrained=False, std=[0.0, 1.0, 1.0])
    with pytest.raises(ModelError, match=r"model\.mean=.*three numbers"):
        create_backbone("lcnet_050", 3, pretrained=False, mean=[0.5])


def test_create_backbone_passes_and_stores_dropout():
    net = create_backbone("resnet18", 3, pretrained=False, drop_rate=0.3, drop_path_rate=0.1)
    assert net.net.drop_rate == 0.3
    assert net.kwargs == {"drop_rate": 0.3, "drop_path_rate": 0.1}


def test_create_backbone_resizes_position_embeddings():
    net = instantiate(_config("deit_tiny_distilled", pretrained=False), num_classes=6)
    assert net.net.pos_embed.shape[1] == 2 + (SIZE // 16) ** 2
    assert net.kwargs == {"img_size": SIZE}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet18dd"}, r"model\.name=resnet18dd is not a timm model: did you mean .*resnet18d"),
        ({"name": "zzzzzz"}, r"model\.name=zzzzzz is not a timm model"),
        ({"name": "resnet18.no_such_tag"}, r"model\.name=resnet18\.no_such_tag"),
        ({"name": "hf-hub:timm/resnet18"}, r"model\.weights=FILE"),
        ({"kwargs": {"img_siize": 64}}, r"model\.name=lcnet_050 cannot be built with img_siize=64: .*img_siize"),
        ({"num_classes": 1}, "two classes"),
        ({"name": None}, r"model\.name is not given"),
        ({"name": "deit_tiny_distilled_patch16_224", "kwargs": {"img_size": 40}}, r"data\.size=40 .*multiple of 16"),
        ({"pretrained": "maybe"}, r"model\.pretrained=maybe"),
    ],
)
def test_create_backbone_rejects_invalid_settings(settings, message):
    arguments = {"name": "lcnet_050", "num_classes": 3, "pretrained": False} | settings
    with pytest.raises(ModelError, match=message) as error:
        create_backbone(**arguments)
    assert "\n" not in str(error.value)


def test_create_backbone_pretrained_false_logs_nothing(caplog):
    with caplog.at_level(logging.INFO):
        create_backbone("lcnet_050", 3, pretrained=False)
    assert not [record for record in caplog.records if record.name.startswith("lightning_modules")]


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050", "resnet10t"])
def test_new_head_starts_at_the_loss_of_chance(name):
    net = create_backbone(name, 6, pretrained=False).eval()
    with torch.inference_mode():
        loss = torch.nn.functional.cross_entropy(net(torch.rand(8, 3, 64, 64)), torch.arange(8) % 6)
    assert abs(float(loss) - math.log(6)) < 0.4
