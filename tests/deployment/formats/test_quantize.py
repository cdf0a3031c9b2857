"""int8 files: smaller than the float file, close to it, with layers in float where int8 loses too much macro F1."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from deployment.exporter import Exporter
from deployment.formats import FORMATS
from deployment.int8 import FIRST
from deployment.predictors import load_exported
from litesort.errors import DeploymentError

INT8 = ["onnx", "openvino"]

for package in ("onnx", "onnxruntime", "openvino", "nncf"):
    pytest.importorskip(package, reason="the export extra is not installed")


@pytest.fixture(scope="module")
def floats(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("floats")
    return {k: FORMATS[k].write(trained.net, folder / f"float{FORMATS[k].suffix}", trained.card) for k in INT8}


@pytest.mark.parametrize("kind", INT8)
def test_int8_is_smaller_agrees_and_keeps_the_card(floats, trained, kind, tmp_path):
    batches = [trained.pixels[:6], trained.pixels[6:]]
    path = FORMATS[kind].quantize(floats[kind], tmp_path / f"int8{FORMATS[kind].suffix}", batches)
    predict = load_exported(path)
    probabilities = predict(trained.pixels).numpy()
    assert np.abs(probabilities - trained.expected).mean() < 0.2  # coarse: 20 calibration images, a tiny network
    assert np.abs(probabilities - trained.expected).max() > 0
    assert predict(trained.pixels[:1]).shape == (1, 3)
    assert predict.card["exported"]["precision"] == "int8"
    assert predict.card["classes"] == trained.classes
    weights = ".bin" if kind == "openvino" else FORMATS[kind].suffix
    assert path.with_suffix(weights).stat().st_size < 0.7 * floats[kind].with_suffix(weights).stat().st_size


def test_layers_return_to_float_until_the_loss_is_small(floats, trained, tmp_path):
    """The macro F1 is simulated: it falls with the distance from the float file."""
    calls = []

    def f1_of(predict):
        calls.append(predict)
        return 1 - float(np.abs(predict(trained.pixels).numpy() - exact).mean())

    exact = load_exported(floats["onnx"])(trained.pixels).numpy()
    loose = FORMATS["onnx"].quantize(
        floats["onnx"], tmp_path / "loose.onnx", [trained.pixels], f1_of=f1_of, max_drop=0.9
    )
    assert load_exported(loose).card["exported"]["float_layers"] == []
    assert len(calls) == 3  # the float file, the int8 model and the written file
    lost = 1 - f1_of(load_exported(loose))
    tight = FORMATS["onnx"].quantize(
        floats["onnx"], tmp_path / "tight.onnx", [trained.pixels], f1_of=f1_of, max_drop=0.5 * lost, rounds=3
    )
    assert len(load_exported(tight).card["exported"]["float_layers"]) >= 1
    assert 1 - f1_of(load_exported(tight)) < 0.5 * lost


@pytest.mark.parametrize("kind", INT8)
def test_loss_of_exactly_max_drop_starts_no_search(kind, floats, trained, tmp_path):
    calls = []

    def f1_of(predict):
        calls.append(predict)
        return 0.9

    path = tmp_path / f"int8{FORMATS[kind].suffix}"
    FORMATS[kind].quantize(floats[kind], path, [trained.pixels], f1_of=f1_of, max_drop=0.0)
    assert len(calls) == 3  # the float file, the int8 model and the written file
    assert load_exported(path).card["exported"]["float_layers"] == []


@pytest.mark.parametrize("kind", INT8)
def test_error_of_a_quantiser_is_a_failed_row(kind, trained, tmp_path, monkeypatch):
    def fail(*arguments, **settings):
        raise RuntimeError("Check failed\n  at line 3")

    monkeypatch.setattr(FORMATS[kind], "quantize", fail)
    exporter = Exporter(trained.net, trained.card, tmp_path, trained.expected, {"int8": None}, None, None, None, [])
    row = exporter.write(kind, "int8")
    assert row["status"] == "failed"
    assert re.match(rf"format={kind} precision=int8 cannot be made from .*: Check failed at line 3", row["error"])


def test_onnx_file_that_loses_too_much_is_not_written(floats, trained, tmp_path):
    scores = iter([1.0, *[0.1] * 20])
    with pytest.raises(DeploymentError, match=r"int8 loses 0.9000 macro F1 .* max_drop=0.01"):
        FORMATS["onnx"].quantize(
            floats["onnx"], tmp_path / "int8.onnx", [trained.pixels[:2]], f1_of=lambda _: next(scores), rounds=1
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("poor", [1, 2])
def test_openvino_keeps_the_first_layers_in_float_before_it_searches(poor, floats, trained, tmp_path):
    """The macro F1 is simulated: the first `poor` int8 models lose too much."""
    calls = []

    def f1_of(predict):
        calls.append(predict)
        return 0.5 if 2 <= len(calls) < 2 + poor else 1.0  # call 1 is the float file

    path = FORMATS["openvino"].quantize(floats["openvino"], tmp_path / "int8.xml", [trained.pixels[:4]], f1_of=f1_of)
    assert len(load_exported(path).card["exported"]["float_layers"]) >= FIRST[poor - 1]
    assert len(calls) == 3 + poor  # the float file, the int8 models and the written file


@pytest.mark.parametrize("kind", INT8)
def test_written_file_is_evaluated_again(floats, kind, trained, tmp_path):
    """The macro F1 is simulated: the int8 model loses nothing, the written file loses too much."""
    evaluated = []

    def f1_of(predict):
        evaluated.append(predict)
        return 1.0 if len(evaluated) < 3 else 0.8  # the float file, the int8 model, then the written file

    with pytest.raises(DeploymentError, match=r"int8 loses 0\.2000 macro F1 .* nothing was written"):
        FORMATS[kind].quantize(
            floats[kind], tmp_path / f"int8{FORMATS[kind].suffix}", [trained.pixels[:4]], f1_of=f1_of
        )
    assert len(evaluated) == 3
    assert list(tmp_path.iterdir()) == []


def test_openvino_file_that_loses_too_much_after_the_search_is_not_written(floats, trained, tmp_path, monkeypatch):
    """NNCF returns its best model after the last round, also if that model loses more than `max_drop`."""
    import nncf

    def search(model, data, *rest, **settings):
        settings = {key: settings[key] for key in ("subset_size", "preset")}
        return nncf.quantize(model, data, **settings)

    monkeypatch.setattr(nncf, "quantize_with_accuracy_control", search)
    scores = iter([1.0, *[0.1] * 20])
    path = tmp_path / "int8.xml"
    with pytest.raises(
        DeploymentError, match=r"int8.xml: int8 loses 0\.9000 macro F1 with \d+ layers .* max_drop=0.01"
    ):
        FORMATS["openvino"].quantize(floats["openvino"], path, [trained.pixels[:4]], f1_of=lambda _: next(scores))
    monkeypatch.setattr(nncf, "quantize_with_accuracy_control", lambda model, *_, **settings: model)
    scores = iter([1.0, *[0.1] * 20])
    with pytest.raises(DeploymentError, match=r"int8.xml: every layer would return to float"):
        FORMATS["openvino"].quantize(floats["openvino"], path, [trained.pixels[:4]], f1_of=lambda _: next(scores))
    assert list(tmp_path.iterdir()) == []


def test_no_space_for_temporary_files_is_an_error_in_one_line(trained, tmp_path, monkeypatch):
    """Without this check, the quantiser reports a corrupt file."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    exporter = Exporter(trained.net, trained.card, tmp_path, trained.expected, {"int8": None}, None, None, None, [])
    row = exporter.write("onnx", "int8")
    assert row["status"] == "failed"
    assert re.match(r"precision=int8 needs \d+ MB .* the disk is full: free some space, or set TMPDIR", row["error"])
    assert list(tmp_path.iterdir()) == []
