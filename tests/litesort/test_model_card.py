"""Invalid model cards are refused in checkpoints and in exported files."""

import copy
import io
import json
from pathlib import Path

import pytest
import torch

from deployment.metadata import unpack
from lightning_modules.backbones.backbone import build_timm
from lightning_modules.checkpoint import MODEL_CARD, read_checkpoint
from litesort.errors import DeploymentError, ModelError
from litesort.model_card import arguments_error, card_error

TARGET = {"_target_": "os.system", "command": "touch harm"}
CARD = {
    "format": 1,
    "model": {"name": "resnet10t", "num_classes": 2, "kwargs": {"drop_path_rate": 0.1, "act_layer": "relu"}},
    "origin": "scratch",
    "classes": ["bag", "can"],
    "class_counts": [3, 4],
    "preprocessing": {"size": 32, "resize": "pad", "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
    "config": {"seed": 0},
    "pruning": [
        {"sizes": {"conv1": {"out_channels": 8, "kernel_size": [3, 3]}}, "shapes": {"conv1.weight": [8, 3, 3, 3]}}
    ],
    "versions": {"torch": "2"},
}
INVALID = {
    "a class is a mapping": ("classes", [TARGET, "can"]),
    "a class is a number": ("classes", [1, "can"]),
    "classes are text": ("classes", "ab"),
    "one class": ("classes", ["bag"]),
    "a class comes twice": ("classes", ["bag", "bag"]),
    "size is a mapping": ("preprocessing.size", TARGET),
    "size is a bool": ("preprocessing.size", True),
    "size is huge": ("preprocessing.size", 10**9),
    "resize is a mapping": ("preprocessing.resize", TARGET),
    "resize is a list": ("preprocessing.resize", ["pad"]),
    "resize is unknown": ("preprocessing.resize", "${oc.env:HOME}"),
    "mean is text": ("preprocessing.mean", "abc"),
    "mean is a mapping": ("preprocessing.mean", [TARGET, 0, 0]),
    "mean is not finite": ("preprocessing.mean", [float("inf"), 0.5, 0.5]),
    "std is zero": ("preprocessing.std", [0.0, 0.5, 0.5]),
    "the network is a repository": ("model.name", "hf-hub:other/net"),
    "the network is a folder": ("model.name", "local-dir:/tmp/net"),
    "the network is a mapping": ("model.name", TARGET),
    "another number of classes": ("model.num_classes", 3),
    "a file to load": ("model.kwargs", {"checkpoint_path": "/tmp/evil.pth"}),
    "pretrained weights": ("model.kwargs", {"pretrained": True}),
    "an address": ("model.kwargs", {"pretrained_cfg": {"url": "http://127.0.0.1/"}}),
    "an overlay of the pretrained config": ("model.kwargs", {"pretrained_cfg_overlay": {"file": "x"}}),
    "a cache folder": ("model.kwargs", {"cache_dir": "/tmp/x"}),
    "an argument is a mapping": ("model.kwargs", {"act_layer": TARGET}),
    "an argument is a path": ("model.kwargs", {"act_layer": "../x"}),
    "pruning is a mapping": ("pruning", {"sizes": {}}),
    "a pruned size is a mapping": ("pruning", [{"sizes": {"conv1": {"out_channels": TARGET}}, "shapes": {}}]),
    "a pruned shape is text": ("pruning", [{"sizes": {}, "shapes": {"conv1.weight": "8"}}]),
    "a pruned size is huge": ("pruning", [{"sizes": {"conv1": {"padding": 10**12}}, "shapes": {}}]),
    "config is a list": ("config", []),
    "versions are nested": ("versions", {"timm": ["1"]}),
    "counts are text": ("class_counts", ["3", "4"]),
    "origin is a mapping": ("origin", TARGET),
}


def changed_card(key: str, value) -> dict:
    card = copy.deepcopy(CARD)
    *parents, last = key.split(".")
    node = card
    for name in parents:
        node = node[name]
    node[last] = value
    return card


def test_valid_card_has_no_fault():
    assert card_error(CARD, complete=True) is None
    assert card_error(json.loads(json.dumps(CARD)), complete=True) is None


@pytest.mark.parametrize("what", list(INVALID))
def test_invalid_card_is_refused_in_both_kinds_of_files(what, tmp_path):
    card = changed_card(*INVALID[what])
    torch.save({"state_dict": {}, MODEL_CARD: card}, tmp_path / "best.ckpt")
    with pytest.raises(ModelError, match="is refused") as checkpoint:
        read_checkpoint(tmp_path / "best.ckpt")
    with pytest.raises(DeploymentError, match=r"incomplete|damaged") as exported:
        unpack(json.dumps({**card, "exported": {"format": 1}}), Path("model.onnx"))
    assert "\n" not in str(checkpoint.value) + str(exported.value)


@pytest.mark.parametrize("key", ["classes", "config", "preprocessing", "loops"])
def test_checkpoint_that_expands_to_too_many_values_is_refused(key, tmp_path):
    bomb: list = ["x"]
    for _ in range(30):
        bomb = [bomb] * 10  # 10 ** 30 values, a few hundred bytes
    content = {"state_dict": {}, MODEL_CARD: dict(CARD)}
    (content if key == "loops" else content[MODEL_CARD])[key] = bomb
    buffer = io.BytesIO()
    torch.save(content, buffer)
    (tmp_path / "best.ckpt").write_bytes(buffer.getvalue())
    with pytest.raises(ModelError, match="more than"):
        read_checkpoint(tmp_path / "best.ckpt")


def test_checkpoint_that_contains_itself_is_refused(tmp_path):
    loop: dict = {}
    loop["again"] = [loop]
    torch.save({"state_dict": {}, MODEL_CARD: {**CARD, "config": loop}}, tmp_path / "best.ckpt")
    with pytest.raises(ModelError, match="more than"):
        read_checkpoint(tmp_path / "best.ckpt")


@pytest.mark.parametrize("version", [TARGET, "1", None, [1]])
def test_format_that_is_not_a_number_is_refused(version, tmp_path):
    torch.save({"state_dict": {}, MODEL_CARD: {**CARD, "format": version}}, tmp_path / "best.ckpt")
    with pytest.raises(ModelError, match="is refused"):
        read_checkpoint(tmp_path / "best.ckpt")


@pytest.mark.parametrize(
    "name", ["pretrained", "checkpoint_path", "pretrained_cfg", "cache_dir", "weights", "hf_hub_id"]
)
def test_network_arguments_that_name_files_are_refused(name):
    assert name in str(arguments_error({name: "x"}))
    with pytest.raises(ModelError, match=name):
        build_timm("resnet10t", 2, {name: "x"})
