"""A user's own export format: one module and one override."""

import importlib
import json

import numpy as np
import pytest
import torch
from configs import QUICK_LATENCY, composed
from hydra.utils import instantiate

from deployment.exported_teacher import open_exported
from deployment.formats import FORMATS, find_format, register
from deployment.predictors import load_exported
from evaluate import main as evaluate_main
from export import export
from lightning_modules.objectives.teacher import load_teacher
from litesort.errors import DeploymentError
from predict import predict

pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("onnxruntime", reason="the export extra is not installed")

MODULE = """
import onnxruntime
import torch

from deployment.formats.base import Format, describe_export, read_file
from deployment.onnx_graph import trace_onnx
from deployment.metadata import pack, unpack
from deployment.verified_write import verified_write


class Plain(Format):
    name = "plain"
    suffix = ".plain"
    companions = (".json",)

    def write(self, net, path, card, *, precision="fp32", temperature=1.0, verify=None):
        graph = trace_onnx(net, card, temperature, self.name)
        with verified_write(path, verify, self.companions) as draft:
            draft.write_bytes(graph)
            draft.with_suffix(".json").write_text(pack(describe_export(card, self.name, precision, temperature)))
        return path

    def load(self, path, threads=1, options=None):
        return Predictor(path)


class Predictor:
    device = torch.device("cpu")
    details = {"runtime": "plain"}

    def __init__(self, path):
        model = read_file(path)
        self.card = unpack(read_file(path.with_suffix(".json")), path)
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def __call__(self, images):
        images = images.numpy() if isinstance(images, torch.Tensor) else images
        return torch.from_numpy(self.session.run(None, {"images": images})[0])
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "my_module").mkdir()
    (tmp_path / "my_module" / "my_format.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "my_module")
    monkeypatch.setattr(FORMATS, "registered", {})


def compose_with_format(config: str, *overrides: str):
    return composed(config, "+formats.plain._target_=my_format.Plain", *overrides)


@pytest.mark.usefixtures("own_module")
def test_own_format_is_exported_evaluated_and_used_for_predictions_and_teaching(checkpoint, image_folder, tmp_path):
    out = tmp_path / "out"
    choice = ("format=[plain]", "precision=[fp32,int8]", "tolerance.fp32=0.01", "calibration_images=8")
    report = export(compose_with_format("export", *QUICK_LATENCY, f"ckpt={checkpoint}", f"out={out}", *choice))
    _, fp32, int8 = report["rows"]
    assert (fp32["file"], fp32["status"], fp32["val/f1_lost"]) == ("model-fp32.plain", "completed", 0)
    assert (int8["status"], int8["error"]) == ("not offered", "plain has fp32")
    assert fp32["bytes"] == sum((out / f"model-fp32.{part}").stat().st_size for part in ("plain", "json"))

    FORMATS.registered.clear()  # as in another process
    path = out / "model-fp32.plain"
    evaluate_main.__wrapped__(
        compose_with_format("evaluate", *QUICK_LATENCY, f"ckpt={path}", f"run_dir={tmp_path / 'evaluated'}")
    )
    metrics = json.loads((tmp_path / "evaluated" / "metrics.json").read_text())
    assert metrics["test/f1_macro"] == pytest.approx(fp32["test/f1_macro"])

    FORMATS.registered.clear()
    labels = tmp_path / "labels.csv"
    predict(compose_with_format("predict", f"ckpt={path}", f"source={image_folder / 'can'}", f"csv={labels}"))
    assert len(labels.read_text().splitlines()) == 21

    FORMATS.registered.clear()
    own = {"plain": importlib.import_module("my_format").Plain()}
    teacher = load_teacher(str(path), open_other=lambda name: open_exported(name, own))
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    expected = load_exported(path)(pixels)
    torch.testing.assert_close(teacher(torch.zeros(1, 3, 32, 32)).softmax(1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("own_module")
def test_train_config_takes_own_format_for_export_and_teacher():
    own = ["export=all", "export.format=[plain]", "+export.formats.plain._target_=my_format.Plain"]
    assert callable(instantiate(composed("train", *own).export))
    own = ["objective=distill_logit", "+objective.teacher.open_other.formats.plain._target_=my_format.Plain"]
    opener = instantiate(composed("train", *own).objective.teacher.open_other)
    FORMATS.registered.clear()
    with pytest.raises(DeploymentError, match=r"^teacher=nowhere\.plain cannot be read"):
        opener("nowhere.plain")


@pytest.mark.usefixtures("own_module")
def test_register_refuses_other_objects_and_other_names():
    format_class = importlib.import_module("my_format").Plain
    with pytest.raises(DeploymentError, match=r"formats\.mine is invalid: .* named plain, give formats\.plain"):
        register({"mine": format_class()})
    with pytest.raises(DeploymentError, match=r"formats\.mine=3 is invalid"):
        register({"mine": 3})
    assert find_format("model.plain") is None
    register({"plain": format_class()})
    assert find_format("model.plain").name == "plain"
    assert "plain" in list(FORMATS)
