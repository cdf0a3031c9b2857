import pickle

import pytest
import torch

from lightning_modules.backbones.backbone import create_backbone
from lightning_modules.checkpoint import (
    FORMAT,
    MODEL_CARD,
    build_net,
    load_for_training,
    make_model_card,
    read_checkpoint,
)
from litesort.errors import ModelError

CLASSES = ["Metal", "Paper", "Plastic"]


def _checkpoint(net, **extra):
    card = make_model_card(net, CLASSES, class_counts=[3, 2, 1], preprocessing={"size": 32, "resize": "pad"}, **extra)
    state = {f"net.{key}": value for key, value in net.state_dict().items()}
    return {"state_dict": state, MODEL_CARD: card, "pytorch-lightning_version": "2.6.0"}


@pytest.fixture(scope="module")
def net():
    return create_backbone(
        "lcnet_050", 3, pretrained=False, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4], drop_rate=0.1
    ).eval()


@pytest.fixture
def path(net, tmp_path):
    torch.save(_checkpoint(net, config={"seed": 3, "data": {"size": 32}}), tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("lcnet_050", {}), ("deit_tiny_distilled_patch16_224", {"img_size": 32, "depth": 1}), ("resnet18d", {})],
)
def test_build_net_restores_outputs_without_network_access(tmp_path, monkeypatch, name, kwargs):
    net = create_backbone(name, 3, pretrained=False, mean=[0.5, 0.4, 0.3], kwargs=kwargs)
    torch.save(_checkpoint(net), tmp_path / "a.ckpt")
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("network access"))
    rebuilt = build_net(read_checkpoint(tmp_path / "a.ckpt"))
    images = torch.rand(2, 3, 32, 32)
    assert not rebuilt.training
    with torch.inference_mode():
        torch.testing.assert_close(rebuilt(images), net.eval()(images), rtol=0, atol=0)
    assert (rebuilt.name, rebuilt.origin, rebuilt.num_classes) == (name, "scratch", 3)


def test_model_card_has_metadata_for_export(path):
    card = read_checkpoint(path)[MODEL_CARD]
    assert card["format"] == FORMAT
    assert card["model"] == {"name": "lcnet_050", "num_classes": 3, "kwargs": {"drop_rate": 0.1}}
    assert card["preprocessing"] == {"size": 32, "resize": "pad", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    assert (card["classes"], card["class_counts"]) == (CLASSES, [3, 2, 1])
    assert (card["origin"], card["pruning"]) == ("scratch", [])
    assert card["config"].items() >= {"seed": 3, "data": {"size": 32}}.items()
    assert {"torch", "timm", "pytorch-lightning", "python"} <= set(card["versions"])


@pytest.mark.parametrize("value", [torch.zeros(1), {"a": {1, 2}}, [object()]])
def test_make_model_card_rejects_other_than_plain_data(net, value):
    with pytest.raises(ModelError, match=r"litesort\.config\.bad"):
        make_model_card(net, CLASSES, config={"bad": value})


class Unsafe:
    def __reduce__(self):
        return (exec, ("raise SystemExit('pwned')",))


def _save(content):
    return lambda path, net: torch.save(content(net), path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path, net: None, "does not exist"),
        (lambda path, net: path.mkdir(), "is a folder"),
        (lambda path, net: path.write_bytes(b"\x89PNG"), "broken"),
        (lambda path, net: path.write_bytes(pickle.dumps(Unsafe())), "would run code"),
        (_save(lambda net: {**_checkpoint(net), "callbacks": Unsafe()}), "would run code"),
        (_save(lambda net: net.state_dict()), "a file of tensors, not litesort's.*best.ckpt"),
        (
            _save(lambda net: {"state_dict": {}, "pytorch-lightning_version": "2.0"}),
            "a Lightning checkpoint, not litesort",
        ),
        (_save(lambda net: _checkpoint(net, format=FORMAT + 1)), "pip install -U litesort"),
    ],
    ids=["missing", "folder", "image", "pickle", "unsafe", "tensors", "lightning", "newer"],
)
def test_read_checkpoint_rejects_invalid_files(net, tmp_path, write, message):
    path = tmp_path / "a.ckpt"
    write(path, net)
    with pytest.raises(ModelError, match=message) as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("defect", ["missing", "shape", "extra"])
def test_build_net_rejects_tensors_that_do_not_fit(net, path, defect):
    checkpoint = read_checkpoint(path)
    state = checkpoint["state_dict"]
    if defect == "missing":
        del state["net.net.conv_head.weight"]
    elif defect == "shape":
        state["net.net.conv_head.weight"] = torch.zeros(1)
    else:
        state["net.net.other"] = torch.zeros(1)
    with pytest.raises(ModelError, match="do not fit lcnet_050") as error:
        build_net(checkpoint)
    assert "\n" not in str(error.value)


def test_build_net_ignores_tensors_of_the_objective(path):
    checkpoint = read_checkpoint(path)
    checkpoint["state_dict"]["objective.projection.weight"] = torch.zeros(2, 2)
    rebuilt = build_net(checkpoint).state_dict()
    assert {f"net.{key}" for key in rebuilt} == checkpoint["state_dict"].keys() - {"objective.projection.weight"}


def test_build_net_rejects_invalid_pruning_steps(path):
    checkpoint = read_checkpoint(path)
    checkpoint[MODEL_CARD]["pruning"] = [{"layer": "conv_stem"}]
    with pytest.raises(ModelError, match="pruning step 0"):
        build_net(checkpoint)


def test_load_for_training_reorders_classes(path, net):
    rebuilt = load_for_training(path, ["Plastic", "Metal", "Paper"])
    assert rebuilt.training
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(rebuilt.eval()(images), net(images)[:, [2, 0, 1]])
    with pytest.raises(
        ModelError, match=r"^ckpt_init=.* was trained on the classes Metal, Paper, Plastic, the data has Glass"
    ):
        load_for_training(path, ["Glass", "Metal"])


def test_read_checkpoint_adds_missing_config_keys(path):
    config = read_checkpoint(path)[MODEL_CARD]["config"]
    assert config["teacher"] is config["ckpt_init"] is None
    assert config["prune"] == {"_target_": "pytorch_lightning.Callback"}


def test_create_backbone_loads_weights_of_checkpoint(net, path):
    other = create_backbone("lcnet_050", 3, weights=str(path))
    assert other.origin == "file:best.ckpt"
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(other.eval()(images), net(images), rtol=0, atol=0)


def test_create_backbone_loads_checkpoint_with_other_classes(path, net):
    other = create_backbone("lcnet_050", 5, weights=str(path))
    torch.testing.assert_close(other.mean, net.mean)
    torch.testing.assert_close(other.net.conv_stem.weight, net.net.conv_stem.weight)


@pytest.mark.parametrize("name", ["model.onnx", "model.xml", "model.bin"])
def test_read_checkpoint_rejects_exported_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"network")
    with pytest.raises(ModelError, match="is not a torch file"):
        read_checkpoint(tmp_path / name)
