"""Files that are broken, not ours, or want to run something: one line, and nothing runs."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from deployment import DeploymentError
from deployment.export import to_onnx, to_openvino, to_torch
from deployment.record import KEY, unpack
from deployment.runtimes import load_artefact, load_exported
from lightning_modules.checkpoint import load_net


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def rebuilt(source: Path, target: Path, change) -> Path:
    """A .pt2 archive with entries changed: `change` gets {name: content} and alters it."""
    with zipfile.ZipFile(source) as archive:
        top = archive.namelist()[0].partition("/")[0]
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"{top}/{name}", content)
    return target


def edited(entries: dict[str, bytes], name: str, change) -> None:
    data = json.loads(entries[name])
    change(data)
    entries[name] = json.dumps(data).encode()


@pytest.fixture(scope="module")
def pt2(shipped, tmp_path_factory):
    return to_torch(shipped.net, tmp_path_factory.mktemp("pt2") / "model.pt2", shipped.record)


PROGRAM, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


def node(data, place=5):
    return data["graph_module"]["graph"]["nodes"][place]


CHANGES = {
    "operator": lambda d: node(d).update(target="torch.serialization.os.system"),
    "file operator": lambda d: node(d).update(target="torch.ops.aten.from_file.default"),
    "extension": lambda d: node(d).update(target="#a:b"),
    "name": lambda d: node(d).update(name="x = __import__('os').system('id')"),
    "expression": lambda d: d["range_constraints"].update({"s0 + __import__('os').getpid()": {"min_val": 0}}),
    "symbol": lambda d: node(d)["inputs"].append(
        {"name": "n", "arg": {"as_sym_int": {"as_expr": {"expr_str": "__import__('os').getpid()", "hint": None}}}}
    ),
    "subgraph": lambda d: node(d)["inputs"].append({"name": "g", "arg": {"as_graph": {"name": "g", "graph": {}}}}),
    "object": lambda d: node(d)["inputs"].append({"name": "o", "arg": {"as_custom_obj": {"name": "o"}}}),
    "parameter": lambda d: d["graph_module"]["signature"]["input_specs"][0]["parameter"].update(
        parameter_name='a"); import os; os.system("id'
    ),
    "signature": lambda d: d["graph_module"]["module_call_graph"][0]["signature"].update(in_spec="[1, {}]"),
}


@pytest.mark.parametrize("what", list(CHANGES))
def test_a_program_that_could_run_code_is_refused(pt2, tmp_path, what):
    bad = rebuilt(pt2, tmp_path / "bad.pt2", lambda entries: edited(entries, PROGRAM, CHANGES[what]))
    with pytest.raises(DeploymentError, match="is refused") as caught:
        load_exported(bad)
    assert "\n" not in str(caught.value)


def test_pickles_in_a_torch_export_file_are_never_read(pt2, tmp_path, shipped):
    harm = tmp_path / "harm"

    def weight(data):
        first = next(iter(data["config"].values()))
        first.update(use_pickle=True)

    def pickled(entries):
        edited(entries, WEIGHTS, weight)
        entries["data/weights/weight_0"] = pickle.dumps(Harm(harm))

    def constant(entries):
        entries["data/constants/opaque_obj_0"] = pickle.dumps(Harm(harm))
        first = next(iter(json.loads(entries[WEIGHTS])["config"].values()))
        edited(entries, CONSTANTS, lambda d: d["config"].update(x={**first, "path_name": "opaque_obj_0"}))

    for change in (pickled, constant):
        with pytest.raises(DeploymentError, match="pickled"):
            load_exported(rebuilt(pt2, tmp_path / "bad.pt2", change))
    # Sample inputs are not needed, so what is there does not matter.
    odd = rebuilt(
        pt2, tmp_path / "odd.pt2", lambda e: e.update({"data/sample_inputs/model.pt": pickle.dumps(Harm(harm))})
    )
    assert load_exported(odd)(shipped.pixels[:1]).shape == (1, 3)
    assert not harm.exists()


def test_a_rebuilt_archive_without_changes_still_answers(pt2, tmp_path, shipped):
    same = rebuilt(pt2, tmp_path / "same.pt2", lambda entries: None)
    assert torch.equal(load_exported(same)(shipped.pixels), load_exported(pt2)(shipped.pixels))


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
@pytest.mark.parametrize("content", [b"", b"not a model", pickle.dumps(Harm(Path("harm")))])
def test_rubbish_is_one_line(tmp_path, suffix, content):
    bad = tmp_path / f"bad{suffix}"
    bad.write_bytes(content)
    bad.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(DeploymentError, match="bad") as caught:
        load_exported(bad)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_of_no_kind(tmp_path, shipped):
    for name in ("model.onnx", "model.xml", "model.pt2"):
        with pytest.raises(DeploymentError, match=r"cannot be read.*give an existing file"):
            load_exported(tmp_path / name)
    with pytest.raises(DeploymentError, match="of no kind"):
        load_exported(tmp_path / "model.tflite")
    with pytest.raises(DeploymentError, match="ckpt is not given"):
        load_artefact(None, load_net)
    path = to_openvino(shipped.net, tmp_path / "model.xml", shipped.record)
    with pytest.raises(DeploymentError, match=r"weights only: give ckpt=.*model.xml"):
        load_exported(path.with_suffix(".bin"))
    path.with_suffix(".bin").unlink()
    with pytest.raises(DeploymentError, match=r"needs model.bin beside it"):
        load_exported(path)


def test_metadata_that_is_gone_damaged_or_newer(tmp_path, shipped):
    import onnx

    path = to_onnx(shipped.net, tmp_path / "model.onnx", shipped.record)
    model = onnx.load(str(path))
    record = json.loads(model.metadata_props[0].value)
    newer = {**record, "exported": {**record["exported"], "format": 99}}
    cases = {
        "": "has no litesort metadata",
        "{": "damaged",
        json.dumps(newer): "format 99 .* pip install -U litesort",
        json.dumps({**record, "classes": "all"}): "incomplete",
        "[]": "incomplete",
        json.dumps({**record, "preprocessing": {"size": 10**9, "resize": "pad"}}): "incomplete",
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


def test_onnx_that_reads_other_files_is_refused(tmp_path, shipped):
    import onnx

    path = to_onnx(shipped.net, tmp_path / "model.onnx", shipped.record)
    model = onnx.load(str(path))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(DeploymentError, match="in other files"):
        load_exported(path)


def test_onnx_with_an_operator_of_a_library_is_refused(tmp_path, shipped):
    import onnx

    path = to_onnx(shipped.net, tmp_path / "model.onnx", shipped.record)
    model = onnx.load(str(path))
    model.graph.node[0].domain = "my.library"
    model.opset_import.add(domain="my.library", version=1)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(DeploymentError, match="cannot be run by ONNX Runtime"):
        load_exported(path)


def test_a_checkpoint_is_an_artefact_too(tmp_path, shipped):
    state = {f"net.{key}": value for key, value in shipped.net.state_dict().items()}
    buffer = io.BytesIO()
    torch.save({"state_dict": state, KEY: shipped.record}, buffer)
    (tmp_path / "best.ckpt").write_bytes(buffer.getvalue())
    artefact = load_artefact(tmp_path / "best.ckpt", load_net)
    assert artefact.net is not None
    torch.testing.assert_close(artefact.predict(shipped.pixels), torch.from_numpy(shipped.expected))
    assert artefact.record["classes"] == shipped.classes
