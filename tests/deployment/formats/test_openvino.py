"""bf16 in OpenVINO: a setting of the runtime, which the metadata of the file stores."""

import numpy as np
import pytest

from deployment.exporter import Exporter
from deployment.formats import FORMATS

pytest.importorskip("openvino", reason="the export extra is not installed")
pytest.importorskip("onnx", reason="the export extra is not installed")

OPENVINO = FORMATS["openvino"]


def set_has_bf16(monkeypatch, capable: bool) -> None:
    monkeypatch.setattr("deployment.formats.openvino._has_bf16", lambda core: capable)


def test_a_bf16_file_is_computed_in_bf16(trained, tmp_path):
    if reason := OPENVINO.not_offered("bf16"):
        pytest.skip(reason)
    path = OPENVINO.write(trained.net, tmp_path / "model.xml", trained.card, precision="bf16")
    predict = OPENVINO.load(path)
    assert predict.card["exported"]["precision_hint"] == "bf16"
    assert predict.details["options"]["INFERENCE_PRECISION_HINT"] == "bf16"
    difference = np.abs(predict(trained.pixels).numpy() - trained.expected).max()
    assert 0 < difference < 0.1
    exact = OPENVINO.load(path, 1, {"INFERENCE_PRECISION_HINT": "f32"})  # overrides the file
    assert np.abs(exact(trained.pixels).numpy() - trained.expected).max() < difference


def test_a_bf16_file_runs_in_fp32_where_the_cpu_has_no_bf16(trained, tmp_path, monkeypatch):
    path = OPENVINO.write(trained.net, tmp_path / "model.xml", trained.card, precision="bf16")
    set_has_bf16(monkeypatch, False)
    predict = OPENVINO.load(path)
    assert predict.details["options"]["INFERENCE_PRECISION_HINT"] == "f32"
    np.testing.assert_allclose(predict(trained.pixels), trained.expected, atol=0.01)


def test_bf16_is_not_offered_where_the_cpu_has_no_bf16(trained, tmp_path, monkeypatch):
    set_has_bf16(monkeypatch, False)
    exporter = Exporter(trained.net, trained.card, tmp_path, trained.expected, {}, None, None, None, [])
    row = exporter.write("openvino", "bf16")
    assert (row["status"], row["error"]) == ("not offered", "this CPU does not compute in bf16: take fp32 or int8")
    assert exporter.write("onnx", "bf16")["error"].endswith("take format=openvino")
    set_has_bf16(monkeypatch, True)
    assert OPENVINO.not_offered("bf16") is None
    assert list(tmp_path.iterdir()) == []


def test_precision_without_a_tolerance_is_a_failed_row(trained, tmp_path):
    exporter = Exporter(trained.net, trained.card, tmp_path, trained.expected, {}, None, None, None, [])
    assert "tolerance.fp32 is not given" in exporter.write("onnx", "fp32")["error"]
    assert list(tmp_path.iterdir()) == []
