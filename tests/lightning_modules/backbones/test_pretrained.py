import functools
import io
import logging
import pickle

import pytest
import safetensors.torch
import timm
import torch

from lightning_modules.backbones.backbone import create_backbone
from lightning_modules.checkpoint import MODEL_CARD, make_model_card
from lightning_modules.classifier import ImageClassifier
from lightning_modules.objectives.base import CrossEntropy
from lightning_modules.optim import configure_optimizer
from litesort.errors import ModelError

NAME = "lcnet_050"


@pytest.fixture(scope="module")
def state():
    return timm.create_model(NAME, num_classes=10).state_dict()


def _load(path, num_classes=10, name=NAME, **settings):
    return create_backbone(name, num_classes, weights=str(path), **settings)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {"state_dict": {f"module._orig_mod.{k}": v for k, v in s.items()}},
        lambda s: {"state_dict": {k: v * 0 for k, v in s.items()}, "state_dict_ema": s},
        lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
    ],
    ids=["plain", "state_dict", "module", "compiled", "ema", "old"],
)
def test_load_file_removes_wrappers(tmp_path, state, wrap):
    path = tmp_path / "weights.pth"
    torch.save(wrap(state), path)
    net = _load(path)
    assert net.origin == "file:weights.pth"
    for name, tensor in net.net.named_parameters():
        torch.testing.assert_close(tensor, state[name])


def test_load_file_reads_safetensors(tmp_path, state):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(state, path)
    torch.testing.assert_close(_load(path).net.conv_stem.weight, state["conv_stem.weight"])


def test_load_file_skips_classifier_of_another_size_with_warning(tmp_path, state, caplog):
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    with caplog.at_level(logging.WARNING):
        net = _load(path, num_classes=3)
    torch.testing.assert_close(net.net.conv_head.weight, state["conv_head.weight"])
    assert net.net.classifier.weight.shape[0] == 3
    assert len(caplog.records) == 1
    assert "classifier.weight (10, " in caplog.text
    assert "does not fit 3 classes" in caplog.text


def test_load_file_resamples_position_embeddings(tmp_path):
    name = "deit_tiny_distilled_patch16_224"
    big = timm.create_model(name, num_classes=10, img_size=64, depth=1).state_dict()
    path = tmp_path / "deit.pth"
    torch.save(big, path)
    net = _load(path, name=name, kwargs={"img_size": 32, "depth": 1})
    assert net.net.pos_embed.shape[1] == 2 + 4
    torch.testing.assert_close(net.net.head_dist.weight, big["head_dist.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {f"encoder.{k}": v for k, v in s.items()}, r"first conv_stem\.weight, which is missing"),
        (lambda s: {k: v for k, v in s.items() if k != "conv_head.weight"}, r"1 of \d+ .*conv_head\.weight"),
        (lambda s: s | {"extra.weight": torch.zeros(1)}, r"are not in the network, first extra\.weight"),
        (lambda s: s | {"conv_stem.weight": torch.zeros(8, 1, 3, 3)}, r"is \(8, 1, 3, 3\) in the file"),
    ],
)
def test_load_file_rejects_tensors_that_do_not_fit(tmp_path, state, change, message):
    path = tmp_path / "weights.pth"
    torch.save(change(state), path)
    with pytest.raises(ModelError, match=message) as error:
        _load(path)
    assert "\n" not in str(error.value)


class Unsafe:
    def __reduce__(self):
        return (exec, ("raise SystemExit('pwned')",))


def _truncated(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()[:5000]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pth", lambda s: b"not a torch file", "not a torch file, or it is broken"),
        ("a.pth", lambda s: b"", "not a torch file, or it is broken"),
        ("a.pth", _truncated, "not a torch file, or it is broken"),
        ("a.safetensors", lambda s: b"\x00" * 40, "not a torch file, or it is broken"),
        ("a.pth", lambda s: pickle.dumps(Unsafe()), "would run code"),
        ("a.pth", lambda s: pickle.dumps({"epoch": 3}), "not a torch file|no named tensors"),
    ],
)
def test_load_file_rejects_broken_and_unsafe_files(tmp_path, state, name, content, message):
    path = tmp_path / name
    path.write_bytes(content(state))
    with pytest.raises(ModelError, match=message) as error:
        _load(path)
    assert "\n" not in str(error.value)
    assert "model.weights=" in str(error.value)


def test_load_file_rejects_unsafe_torch_zip(tmp_path):
    torch.save({"state_dict": {}, "payload": Unsafe()}, tmp_path / "a.ckpt")
    with pytest.raises(ModelError, match="would run code"):
        _load(tmp_path / "a.ckpt")


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"state_dict": 5}, {}])
def test_load_file_rejects_incomplete_litesort_checkpoint(tmp_path, content):
    card = make_model_card(create_backbone(NAME, 3, pretrained=False), ["a", "b", "c"])
    torch.save({MODEL_CARD: card, **content}, tmp_path / "a.ckpt")
    with pytest.raises(ModelError, match=r"net\.mean or net\.std is missing"):
        _load(tmp_path / "a.ckpt")
    torch.save({MODEL_CARD: {}, **content}, tmp_path / "a.ckpt")
    with pytest.raises(ModelError, match="classes is missing"):
        _load(tmp_path / "a.ckpt")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}])
def test_load_file_rejects_file_without_tensors(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ModelError, match="named tensors"):
        _load(tmp_path / "a.pth")


def test_create_backbone_rejects_missing_file_and_two_sources(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        _load(tmp_path / "none.pth")
    with pytest.raises(ModelError, match="is a folder"):
        _load(tmp_path)
    with pytest.raises(ModelError, match="both select weights"):
        _load(tmp_path / "none.pth", pretrained=True)


@pytest.mark.parametrize("classes", [["a", "b", "c"], ["c", "a", "b"], ["a", "b", "x"]])
def test_match_head_keeps_head_only_for_equal_classes(tmp_path, classes, caplog):
    first = create_backbone(NAME, 3, pretrained=False)
    state = {f"net.{key}": value for key, value in first.state_dict().items()}
    path = tmp_path / "best.ckpt"
    torch.save({"state_dict": state, MODEL_CARD: make_model_card(first, ["a", "b", "c"])}, path)
    net = _load(path, num_classes=3)
    with caplog.at_level(logging.WARNING):
        ImageClassifier(net, CrossEntropy(), functools.partial(configure_optimizer), classes)
    head, before = net.net.classifier.weight, first.net.classifier.weight
    torch.testing.assert_close(net.net.conv_stem.weight, first.net.conv_stem.weight)
    if "x" in classes:
        assert not torch.equal(head, before)
        assert "classifier has the classes a, b, c and the data has a, b, x" in caplog.text
    else:
        torch.testing.assert_close(head, before[["abc".index(name) for name in classes]])
        assert not caplog.records
