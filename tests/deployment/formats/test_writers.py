"""Exported files compute what the network computes, and store its metadata."""

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from timm.utils import reparameterize_model

from deployment import optional
from deployment.complexity import size_in_bytes
from deployment.export_module import deployable, fuse_branches
from deployment.formats import FORMATS
from deployment.parity import Tolerance, check, compare, tolerances
from deployment.predictors import TorchPredictor, load_exported
from lightning_modules.backbones.backbone import create_backbone
from lightning_modules.checkpoint import make_model_card
from litesort.cli.compose import CONF
from litesort.errors import DeploymentError

pytest.importorskip("ncnn", reason="the ncnn extra is not installed")
pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("onnxruntime", reason="the export extra is not installed")
pytest.importorskip("openvino", reason="the export extra is not installed")

MODELS = sorted(file.stem for file in (CONF / "model").glob("[!_]*.yaml"))
KWARGS = {"deit_tiny_distilled": {"img_size": 32, "depth": 2}, "timm": {}}


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    """One fp32 file of each format."""
    folder = tmp_path_factory.mktemp("files")
    return {
        name: export_format.write(trained.net, folder / f"model{export_format.suffix}", trained.card)
        for name, export_format in FORMATS.items()
    }


@pytest.mark.parametrize("kind", list(FORMATS))
def test_file_computes_the_probabilities_of_the_network(files, trained, kind):
    predict = load_exported(files[kind])
    probabilities = predict(trained.pixels)
    assert probabilities.dtype == torch.float32
    np.testing.assert_allclose(probabilities, trained.expected, atol=1e-5)
    one, of_tensor = predict(trained.pixels[:1]), predict(torch.from_numpy(trained.pixels[:5]))
    np.testing.assert_allclose(one, trained.expected[:1], atol=1e-5)
    np.testing.assert_allclose(of_tensor, trained.expected[:5], atol=1e-5)
    probabilities.numpy()[:] += 1  # the next call does not share this memory
    np.testing.assert_allclose(predict(trained.pixels), trained.expected, atol=1e-5)


@pytest.mark.parametrize("kind", list(FORMATS))
def test_file_stores_the_card(files, trained, kind):
    predict = load_exported(files[kind])
    stored = dict(predict.card)
    exported = stored.pop("exported")
    assert stored == trained.card
    assert (exported["kind"], exported["precision"], exported["temperature"]) == (kind, "fp32", 1.0)
    assert exported["input"] == "images: (B, 32, 32, 3) uint8 RGB"
    assert predict.details["precision"] == "fp32"
    assert {path.name for path in files[kind].parent.iterdir()} == {
        "model.onnx", "model.xml", "model.bin", "model.ncnn.param", "model.ncnn.bin",
        "model.ncnn.json",
    }  # fmt: skip


@pytest.mark.parametrize("kind", list(FORMATS))
def test_fp16_file_is_smaller_and_contains_the_temperature(files, trained, kind, tmp_path):
    path = FORMATS[kind].write(
        trained.net, tmp_path / f"half{FORMATS[kind].suffix}", trained.card, precision="fp16", temperature=4.0
    )
    with torch.inference_mode():
        logits = trained.net(torch.from_numpy(trained.pixels).permute(0, 3, 1, 2) / 255)
    assert load_exported(path).card["exported"]["precision"] == "fp16"
    np.testing.assert_allclose(load_exported(path)(trained.pixels), (logits / 4).softmax(1), atol=0.02)
    assert size_in_bytes(path, None) < 0.7 * size_in_bytes(files[kind], None)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_config_exports(model, tmp_path):
    name = OmegaConf.load(CONF / "model" / f"{model}.yaml").get("name") or "resnet10t"
    torch.manual_seed(0)
    net = create_backbone(name, 3, pretrained=False, kwargs=KWARGS.get(model, {})).eval()
    card = make_model_card(net, ["a", "b", "c"], preprocessing={"size": 32, "resize": "pad"})
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    expected = TorchPredictor(net)(images)
    for export_format in (FORMATS["onnx"], FORMATS["openvino"]):
        predict = export_format.load(export_format.write(net, tmp_path / f"model{export_format.suffix}", card))
        np.testing.assert_allclose(predict(images), expected, atol=1e-4)


@pytest.mark.parametrize("kind", list(FORMATS))
def test_file_that_fails_verification_is_not_written(trained, kind, tmp_path):
    def refuse(draft: Path) -> None:
        assert load_exported(draft)(trained.pixels).shape == trained.expected.shape
        raise DeploymentError("refused")

    with pytest.raises(DeploymentError, match="refused"):
        FORMATS[kind].write(trained.net, tmp_path / f"model{FORMATS[kind].suffix}", trained.card, verify=refuse)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["onnx", "ncnn"])
def test_full_disk_leaves_the_old_file(trained, kind, tmp_path, monkeypatch):
    path = tmp_path / f"model{FORMATS[kind].suffix}"
    path.write_bytes(b"old")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DeploymentError, match="disk is full"):
        FORMATS[kind].write(trained.net, path, trained.card)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("unknown error", "unknown error"),
        ("basic_ios::clear: iostream error", "cannot be written: the disk is full"),
    ],
)
def test_openvino_model_that_cannot_be_written_leaves_no_file(trained, tmp_path, monkeypatch, message, shown):
    import openvino

    def full(model, draft, **options):
        Path(draft).write_bytes(b"<xml")
        raise RuntimeError(message)

    monkeypatch.setattr(openvino, "save_model", full)
    with pytest.raises(DeploymentError, match=shown):
        FORMATS["openvino"].write(trained.net, tmp_path / "model.xml", trained.card)
    assert list(tmp_path.iterdir()) == []


def test_network_with_unsupported_operators_is_an_error_in_one_line(trained, monkeypatch, tmp_path):
    def fail(*arguments, **options):
        raise RuntimeError("Exporting the operator 'aten::strange' is not supported\nand more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(DeploymentError, match=r"format=onnx cannot express resnet10t: .*strange") as caught:
        FORMATS["onnx"].write(trained.net, tmp_path / "model.onnx", trained.card)
    assert "\n" not in str(caught.value)


def test_missing_package_is_named(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(DeploymentError, match=r"needs the package onnx: pip install -e '\.\[export\]'"):
        FORMATS["onnx"].write(trained.net, tmp_path / "model.onnx", trained.card)
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(DeploymentError, match="torch-pruning"):
        optional("torch_pruning", "prune=structured")


def test_deployable_fuses_branches_in_a_copy():
    torch.manual_seed(0)
    net = create_backbone("repvgg_a0", 3, pretrained=False).eval()
    before = len(list(net.modules()))
    module = deployable(net, 32)
    assert len(list(net.modules())) == before
    assert len(list(module.modules())) < before
    expected = TorchPredictor(net)(module.example())
    np.testing.assert_allclose(module(module.example()).detach(), expected, atol=1e-5)
    with pytest.raises(DeploymentError, match="temperature=0"):
        deployable(net, 32, 0)


@pytest.mark.parametrize("name", ["repvgg_a0", "fastvit_t8"])
def test_fuse_branches_equals_reparameterize_model_of_timm(name):
    torch.manual_seed(0)
    fused = create_backbone(name, 3, pretrained=False).eval().net
    for module in fused.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    expected = reparameterize_model(fused)
    fuse_branches(fused)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(fused(images), expected(images), rtol=0, atol=0)


def test_parity_is_measured_and_compared_with_the_tolerance():
    expected = np.array([[0.7, 0.3], [0.2, 0.8], [0.4, 0.6]])
    near = compare(expected + np.array([0.01, -0.01]), expected)
    assert near.difference == pytest.approx(0.01)
    assert near.agreement == 1
    check(near, Tolerance(0.02, 1.0), "model.onnx")
    with pytest.raises(DeploymentError, match=r"model.onnx differs from .* 0.01, .*nothing was written"):
        check(near, Tolerance(0.005, 1.0), "model.onnx")
    swapped = compare(expected[:, ::-1], expected)
    assert swapped.agreement == 0
    check(swapped, Tolerance(None, 0.0), "model.onnx")
    with pytest.raises(DeploymentError, match=r"same class on 0\.0%"):
        check(swapped, Tolerance(None, 0.9), "model.onnx")
    for wrong in (np.full_like(expected, np.nan), expected[:2]):
        with pytest.raises(DeploymentError, match="parity"):
            compare(wrong, expected)
    assert tolerances({"fp32": 0.1, "int8": None}, {"fp32": 1.0, "int8": 0.9})["int8"] == Tolerance(None, 0.9)


def test_predictors_set_and_report_threads_and_options(files):
    onnx = FORMATS["onnx"].load(files["onnx"], 1, {"enable_mem_pattern": False})
    assert onnx.details["options"]["enable_mem_pattern"] is False
    assert onnx.session.get_session_options().intra_op_num_threads == 1
    assert onnx.session.get_session_options().enable_mem_pattern is False
    openvino = FORMATS["openvino"].load(files["openvino"], 1, {"PERFORMANCE_HINT": "THROUGHPUT"})
    assert openvino.details["options"]["PERFORMANCE_HINT"] == "THROUGHPUT"
    assert openvino.details["options"]["INFERENCE_NUM_THREADS"] == "1"
    with pytest.raises(
        DeploymentError, match=r"runtime\.no_such_option=1 is not an option of ONNX Runtime: leave it out"
    ):
        FORMATS["onnx"].load(files["onnx"], 1, {"no_such_option": 1})
    spinning = {"session": {"intra_op": {"allow_spinning": 0}}}
    quiet = FORMATS["onnx"].load(files["onnx"], 2, spinning)
    assert quiet.details["options"]["session.intra_op.allow_spinning"] == "0"
    assert quiet.session.get_session_options().get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert (onnx.details["runs_on"], openvino.details["runs_on"]) == ("cpu", "cpu")
    with pytest.raises(DeploymentError, match=r"runtime\.session=5 is not an option of ONNX Runtime: give entries"):
        FORMATS["onnx"].load(files["onnx"], 1, {"session": 5})
    basic = FORMATS["onnx"].load(files["onnx"], 1, {"graph_optimization_level": "ORT_ENABLE_BASIC"})
    assert basic.session.get_session_options().graph_optimization_level.name == "ORT_ENABLE_BASIC"
    with pytest.raises(DeploymentError, match=r"graph_optimization_level=best is not .*: give .*ORT_ENABLE_ALL"):
        FORMATS["onnx"].load(files["onnx"], 1, {"graph_optimization_level": "best"})
    with pytest.raises(DeploymentError, match=r"runtime\.NO_SUCH_OPTION=1 is not an option of OpenVINO: .*Unsupported"):
        FORMATS["openvino"].load(files["openvino"], 1, {"NO_SUCH_OPTION": "1"})
