"""Exported files as teachers, and times of nets as they are deployed."""

import math

import pytest
import torch

from deployment.exported_teacher import open_exported
from deployment.formats import FORMATS
from deployment.latency.benchmark import build_clock
from lightning_modules.backbones.backbone import create_backbone
from lightning_modules.objectives.teacher import load_teacher
from litesort.errors import DeploymentError

pytest.importorskip("onnxruntime", reason="the export extra is not installed")
pytest.importorskip("ncnn", reason="the ncnn extra is not installed")
pytest.importorskip("openvino", reason="the export extra is not installed")


@pytest.mark.parametrize("kind", list(FORMATS))
def test_a_file_teaches_what_its_checkpoint_would(trained, tmp_path, kind):
    path = FORMATS[kind].write(trained.net, tmp_path / f"teacher{FORMATS[kind].suffix}", trained.card)
    teacher = load_teacher(str(path), open_other=open_exported)
    order = list(reversed(trained.classes))
    teacher.match(order)
    images = torch.from_numpy(trained.pixels).permute(0, 3, 1, 2) / 255
    answers = teacher(images)
    expected = torch.from_numpy(trained.expected)[:, [trained.classes.index(name) for name in order]]
    torch.testing.assert_close(answers.softmax(1), expected, atol=1e-3, rtol=1e-3)
    assert teacher(torch.nn.functional.interpolate(images, (48, 48))).shape == answers.shape  # resized for it


def test_a_file_that_cannot_teach_is_named_as_the_teacher(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(DeploymentError, match=r"^teacher=.*bad\.onnx cannot be read as an ONNX file"):
        load_teacher(str(tmp_path / "bad.onnx"), open_other=open_exported)


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "ncnn", "eager"])
def test_build_clock_times_two_networks_in_each_runtime(runtime):
    small, large = (create_backbone(name, 3, pretrained=False).eval() for name in ("lcnet_035", "resnet10t"))
    times = build_clock(runtime)(small, large, 64)
    assert all(math.isfinite(value) and value > 0 for value in times)


def test_an_unknown_runtime_is_refused():
    with pytest.raises(
        DeploymentError, match=r"prune\.runtime=tflite is unknown: give one of ncnn, onnx, openvino, eager"
    ):
        build_clock("tflite")
