"""Exported files as teachers."""

import pytest
import torch

from deployment.exported_teacher import open_exported
from deployment.formats import FORMATS
from lightning_modules.objectives.teacher import load_teacher
from litesort.errors import DeploymentError

pytest.importorskip("onnxruntime", reason="the export extra is not installed")
pytest.importorskip("ncnn", reason="the ncnn extra is not installed")
pytest.importorskip("openvino", reason="the export extra is not installed")


@pytest.mark.parametrize("kind", list(FORMATS))
def test_exported_teacher_returns_the_probabilities_of_its_checkpoint(trained, tmp_path, kind):
    path = FORMATS[kind].write(trained.net, tmp_path / f"teacher{FORMATS[kind].suffix}", trained.card)
    teacher = load_teacher(str(path), open_other=open_exported)
    order = list(reversed(trained.classes))
    teacher.match(order)
    images = torch.from_numpy(trained.pixels).permute(0, 3, 1, 2) / 255
    logits = teacher(images)
    expected = torch.from_numpy(trained.expected)[:, [trained.classes.index(name) for name in order]]
    torch.testing.assert_close(logits.softmax(1), expected, atol=1e-3, rtol=1e-3)
    larger = torch.nn.functional.interpolate(images, (48, 48))
    assert teacher(larger).shape == logits.shape  # the teacher resizes images to its own size


def test_unreadable_file_is_named_as_the_teacher(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(DeploymentError, match=r"^teacher=.*bad\.onnx cannot be read as an ONNX file"):
        load_teacher(str(tmp_path / "bad.onnx"), open_other=open_exported)
