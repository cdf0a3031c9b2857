"""One verb a format: each writes one file that holds all that a robot needs, and returns its path."""

import contextlib
import errno
import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deployment import DeploymentError, optional
from deployment.graph import deployable
from deployment.half import HalfWeights, halve_onnx
from deployment.record import FORMAT, KEY, pack
from deployment.writing import Verify, placing

SUFFIX = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
INPUT, OUTPUT = "photos", "probabilities"
OPSET = 17


def to_onnx(
    net: nn.Module,
    path: Path,
    record: Mapping[str, Any],
    *,
    precision: str = "fp32",
    temperature: float = 1.0,
    verify: Verify | None = None,
) -> Path:
    """Write one ONNX file: `photos` (B, S, S, 3) uint8 -> `probabilities` (B, C) float32, any B.

    Args:
        net: Backbone, as lightning_modules.checkpoint.build_net returns it.
        path: Name of the file.
        record: The checkpoint's record, plain data; it and how the file was made become the metadata `litesort`.
        precision: "fp32", or "fp16": weights are stored in half precision, and calculated with as the runtime likes.
        temperature: Logits are divided by it before the softmax.
        verify: Called with the file before it gets its name; what it raises keeps the file from being written.

    Returns:
        `path`.

    Raises:
        DeploymentError: The package is missing, the network cannot be exported, or the disk is full.
    """
    onnx = optional("onnx", "format=onnx")
    model = onnx.load_from_string(_traced(net, record, temperature, "onnx"))
    if precision == "fp16":
        halve_onnx(model)
    model.producer_name = KEY
    onnx.helper.set_model_props(model, {KEY: pack(described(record, "onnx", precision, temperature))})
    onnx.checker.check_model(model)
    with placing(path, verify) as draft:
        draft.write_bytes(model.SerializeToString())
    return path


def to_openvino(
    net: nn.Module,
    path: Path,
    record: Mapping[str, Any],
    *,
    precision: str = "fp32",
    temperature: float = 1.0,
    verify: Verify | None = None,
) -> Path:
    """Write OpenVINO's pair of files, `path` (.xml) and its weights (.bin); all else as in `to_onnx`."""
    openvino = optional("openvino", "format=openvino")
    graph = _traced(net, record, temperature, "openvino")  # four times faster than its own tracing, and the same graph
    with _quietly("openvino", record):
        model = openvino.Core().read_model(graph)
    return save_openvino(model, path, described(record, "openvino", precision, temperature), verify)


def save_openvino(model: Any, path: Path, record: Mapping[str, Any], verify: Verify | None = None) -> Path:
    """Write an OpenVINO model and the record of it; `record["exported"]["precision"]` "fp16" halves its weights."""
    openvino = optional("openvino", "format=openvino")
    model.set_rt_info(pack(record), [KEY])
    with placing(path, verify, companions=(".bin",)) as draft:
        try:
            openvino.save_model(model, draft, compress_to_fp16=record["exported"]["precision"] == "fp16")
        except RuntimeError as error:
            if "iostream" in str(error):  # all that it says of a disk that is full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise OSError(_first_line(error)) from error
    return path


def to_torch(
    net: nn.Module,
    path: Path,
    record: Mapping[str, Any],
    *,
    precision: str = "fp32",
    temperature: float = 1.0,
    verify: Verify | None = None,
) -> Path:
    """Write one torch.export file (.pt2), the record among its extra files; all else as in `to_onnx`."""
    whole = deployable(net, _size(record), temperature)
    module, example = HalfWeights(whole) if precision == "fp16" else whole, whole.example()
    with _quietly("torch", record):
        batch = torch.export.Dim("batch", min=1, max=1 << 16)
        program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},), strict=False)
        buffer = io.BytesIO()
        extra = {KEY: pack(described(record, "torch", precision, temperature))}
        torch.export.save(program, buffer, extra_files=extra)
    with placing(path, verify) as draft:
        draft.write_bytes(buffer.getvalue())
    return path


WRITERS: dict[str, Callable[..., Path]] = {"onnx": to_onnx, "openvino": to_openvino, "torch": to_torch}


def _traced(net: nn.Module, record: Mapping[str, Any], temperature: float, kind: str) -> bytes:
    """ONNX bytes of the shipped form of a network."""
    module = deployable(net, _size(record), temperature)
    buffer = io.BytesIO()
    with _quietly(kind, record):
        # The tracing exporter: the newer one needs 20 s a network and another package, for the same graph.
        torch.onnx.export(
            module, (module.example(),), buffer, dynamo=False,  # type: ignore[arg-type]
            input_names=[INPUT], output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}, opset_version=OPSET,
        )  # fmt: skip
    return buffer.getvalue()


def described(record: Mapping[str, Any], kind: str, precision: str, temperature: float) -> dict[str, Any]:
    """A record with how the file was made under "exported", beside what the caller has put there already."""
    exported = {
        **record.get("exported", {}),
        "format": FORMAT, "kind": kind, "precision": precision, "temperature": temperature,
        "input": f"{INPUT}: (B, {_size(record)}, {_size(record)}, 3) uint8 RGB",
        "output": f"{OUTPUT}: (B, {len(record['classes'])}) float32",
        "torch": str(torch.__version__),
    }  # fmt: skip
    return {**record, "exported": exported}


def _size(record: Mapping[str, Any]) -> int:
    size = record["preprocessing"].get("size")
    if not isinstance(size, int):
        raise DeploymentError("ckpt: its record names no photo size: train it again with this litesort")
    return size


@contextlib.contextmanager
def _quietly(kind: str, record: Mapping[str, Any]) -> Iterator[None]:
    """Keep the exporters' warnings (about torch's own insides) to themselves, and make one line of their errors."""
    name = record.get("model", {}).get("name", "this network")
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except (DeploymentError, MemoryError):
        raise
    except Exception as error:  # exporters fail as anything
        raise DeploymentError(
            f"format={kind} cannot express {name}: {_first_line(error)}: leave this format out, or choose another model"
        ) from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
