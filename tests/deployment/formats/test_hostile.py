"""Broken files, foreign files and files that try to run code: each is an error in one line, and no code runs."""

import json
import os
import pickle
from pathlib import Path

import pytest

from deployment.formats import FORMATS
from deployment.metadata import KEY, unpack
from deployment.predictors import load_artifact, load_exported
from lightning_modules.checkpoint import load_net
from litesort.errors import DeploymentError


class RunsCommand:
    """An object whose unpickling creates the file `executed` in the working folder."""

    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".ncnn.param"])
@pytest.mark.parametrize("content", [b"", b"not a model", pickle.dumps(RunsCommand())], ids=["empty", "text", "pickle"])
def test_file_of_another_kind_is_an_error_in_one_line(tmp_path, monkeypatch, suffix, content):
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / f"bad{suffix}"
    bad.write_bytes(content)
    bad.with_suffix(".bin").write_bytes(b"")
    bad.with_suffix(".json").write_bytes(content)
    with pytest.raises(DeploymentError, match="bad") as caught:
        load_exported(bad)
    assert "\n" not in str(caught.value)
    assert not Path("executed").exists()


def test_missing_files_and_unknown_suffixes_are_errors(tmp_path, trained):
    for name in ("model.onnx", "model.xml", "model.ncnn.param"):
        with pytest.raises(DeploymentError, match=r"cannot be read.*give an existing file"):
            load_exported(tmp_path / name)
    with pytest.raises(DeploymentError, match="has an unknown suffix"):
        load_exported(tmp_path / "model.tflite")
    with pytest.raises(DeploymentError, match="ckpt is not given"):
        load_artifact(None, load_net)
    path = FORMATS["openvino"].write(trained.net, tmp_path / "model.xml", trained.card)
    with pytest.raises(DeploymentError, match=r"companion file of an exported model: give ckpt=.*model.xml"):
        load_exported(path.with_suffix(".bin"))
    path.with_suffix(".bin").unlink()
    with pytest.raises(DeploymentError, match=r"needs model.bin beside it"):
        load_exported(path)


def test_missing_damaged_and_newer_metadata_are_errors(tmp_path, trained):
    import onnx

    path = FORMATS["onnx"].write(trained.net, tmp_path / "model.onnx", trained.card)
    model = onnx.load(str(path))
    card = json.loads(model.metadata_props[0].value)
    newer = {**card, "exported": {**card["exported"], "format": 99}}
    cases = {
        "": "has no litesort metadata",
        "{": "damaged",
        json.dumps(newer): "format 99 .* pip install -U litesort",
        json.dumps({**card, "classes": "all"}): "incomplete",
        "[]": "incomplete",
        json.dumps({**card, "preprocessing": {"size": 10**9, "resize": "pad"}}): "incomplete",
    }
    for text, message in cases.items():
        del model.metadata_props[:]
        if text:
            onnx.helper.set_model_props(model, {KEY: text})
        path.write_bytes(model.SerializeToString())
        with pytest.raises(DeploymentError, match=message):
            load_exported(path)
    with pytest.raises(DeploymentError, match="damaged"):
        unpack("[" * 100_000, path)


def test_onnx_with_external_data_is_refused(tmp_path, trained):
    import onnx

    path = FORMATS["onnx"].write(trained.net, tmp_path / "model.onnx", trained.card)
    model = onnx.load(str(path))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(DeploymentError, match="in other files"):
        load_exported(path)


def test_onnx_with_a_custom_operator_is_refused(tmp_path, trained):
    import onnx

    path = FORMATS["onnx"].write(trained.net, tmp_path / "model.onnx", trained.card)
    model = onnx.load(str(path))
    model.graph.node[0].domain = "my.library"
    model.opset_import.add(domain="my.library", version=1)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(DeploymentError, match="cannot be run by ONNX Runtime"):
        load_exported(path)
