"""int8: small, close to the float file, and given back to float where it loses too much."""

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
def test_int8_is_smaller_agrees_and_keeps_the_record(floats, trained, kind, tmp_path):
    batches = [trained.pixels[:6], trained.pixels[6:]]
    path = FORMATS[kind].quantize(floats[kind], tmp_path / f"int8{FORMATS[kind].suffix}", batches)
    predict = load_exported(path)
    answers = predict(trained.pixels).numpy()
    assert np.abs(answers - trained.expected).mean() < 0.2  # 12 images calibrate a tiny net
    assert np.abs(answers - trained.expected).max() > 0
    assert predict(trained.pixels[:1]).shape == (1, 3)
    assert predict.card["exported"]["precision"] == "int8"
    assert predict.card["classes"] == trained.classes
    weights = ".bin" if kind == "openvino" else FORMATS[kind].suffix
    assert path.with_suffix(weights).stat().st_size < 0.7 * floats[kind].with_suffix(weights).stat().st_size


def test_layers_go_back_to_float_until_little_is_lost(floats, trained, tmp_path):
    """The F1 is made up: it falls with the distance from the float file."""
    calls = []

    def f1_of(predict):
        calls.append(predict)
        moved = float(np.abs(predict(trained.pixels).numpy() - exact).mean())
        return 1 - moved

    exact = load_exported(floats["onnx"])(trained.pixels).numpy()
    loose = FORMATS["onnx"].quantize(
        floats["onnx"], tmp_path / "loose.onnx", [trained.pixels], f1_of=f1_of, max_drop=0.9
    )
    assert load_exported(loose).card["exported"]["float_layers"] == []
    assert len(calls) == 3  # the float file, the int8 one, and that as written
    lost = 1 - f1_of(load_exported(loose))
    tight = FORMATS["onnx"].quantize(
        floats["onnx"], tmp_path / "tight.onnx", [trained.pixels], f1_of=f1_of, max_drop=0.5 * lost, rounds=3
    )
    assert len(load_exported(tight).card["exported"]["float_layers"]) >= 1
    assert 1 - f1_of(load_exported(tight)) < 0.5 * lost


@pytest.mark.parametrize("kind", INT8)
def test_what_loses_exactly_what_it_may_stays_int8(kind, floats, trained, tmp_path):
    calls = []
    path = tmp_path / f"int8{FORMATS[kind].suffix}"
    FORMATS[kind].quantize(floats[kind], path, [trained.pixels], f1_of=lambda _: calls.append(_) or 0.9, max_drop=0.0)
    assert len(calls) == 3  # the float file, the int8 one, and that as written: nothing was searched for
    assert path.is_file()


@pytest.mark.parametrize("kind", INT8)
def test_a_network_that_a_quantiser_cannot_take_is_a_row(kind, trained, tmp_path, monkeypatch):
    def fail(*arguments, **settings):
        raise RuntimeError("Check failed\n  at line 3")

    monkeypatch.setattr(FORMATS[kind], "quantize", fail)
    exporter = Exporter(trained.net, trained.card, tmp_path, trained.expected, {"int8": None}, None, None, None, [])
    row = exporter.write(kind, "int8")
    assert row["status"] == "failed"
    assert re.match(rf"format={kind} precision=int8 cannot be made from .*: Check failed at line 3", row["error"])


def test_what_still_loses_too_much_is_not_written(floats, trained, tmp_path):
    scores = iter([1.0, *[0.1] * 20])
    with pytest.raises(DeploymentError, match=r"int8 loses 0.9000 macro F1 .* max_drop=0.01"):
        FORMATS["onnx"].quantize(
            floats["onnx"], tmp_path / "int8.onnx", [trained.pixels[:2]], f1_of=lambda _: next(scores), rounds=1
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("poor", [1, 2])
def test_openvino_keeps_the_first_layers_in_float_before_it_searches(poor, floats, trained, tmp_path):
    """The F1 is made up: only the second int8 model is good enough, or the third."""
    calls = []

    def f1_of(predict):
        calls.append(predict)
        return 0.5 if 2 <= len(calls) < 2 + poor else 1.0  # the float one, all int8, with layers in float, as written

    path = FORMATS["openvino"].quantize(floats["openvino"], tmp_path / "int8.xml", [trained.pixels[:4]], f1_of=f1_of)
    assert len(load_exported(path).card["exported"]["float_layers"]) >= FIRST[poor - 1]
    assert len(calls) == 3 + poor


@pytest.mark.parametrize("kind", INT8)
def test_the_written_file_is_judged_once_more(floats, kind, trained, tmp_path):
    """The search says it is good enough; the file under its temporary name is not."""
    evaluated = []

    def f1_of(predict):
        evaluated.append(predict)
        return 1.0 if len(evaluated) < 3 else 0.8  # the float file, the int8 model, and what was written

    with pytest.raises(DeploymentError, match=r"int8 loses 0\.2000 macro F1 .* nothing was written"):
        FORMATS[kind].quantize(
            floats[kind], tmp_path / f"int8{FORMATS[kind].suffix}", [trained.pixels[:4]], f1_of=f1_of
        )
    assert len(evaluated) == 3
    assert list(tmp_path.iterdir()) == []


def test_what_the_search_of_openvino_does_not_reach_is_not_written(floats, trained, tmp_path, monkeypatch):
    """NNCF returns its best after the last round, however little that is."""
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


def test_a_full_disk_for_what_is_written_on_the_way_is_one_line(trained, tmp_path, monkeypatch):
    """The quantiser's own error is of a corrupt file."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    exporter = Exporter(trained.net, trained.card, tmp_path, trained.expected, {"int8": None}, None, None, None, [])
    row = exporter.write("onnx", "int8")
    assert row["status"] == "failed"
    assert re.match(r"precision=int8 needs \d+ MB .* the disk is full: free some space, or set TMPDIR", row["error"])
    assert list(tmp_path.iterdir()) == []
