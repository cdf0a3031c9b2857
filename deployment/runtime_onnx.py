"""ONNX files, run by ONNX Runtime."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deployment import DeploymentError, optional
from deployment.loading import array, cannot_run, made, read
from deployment.record import KEY, unpack


class OnnxPredictor:
    """Run an ONNX file in ONNX Runtime, which loads no library and no file that the model names.

    Args:
        path: The file.
        threads: Threads of one answer; None leaves them to the runtime.
        options: Further attributes of `onnxruntime.SessionOptions`, and `providers`, a list of names.
    """

    def __init__(self, path: Path, threads: int | None = 1, options: Mapping[str, Any] | None = None) -> None:
        runtime = optional("onnxruntime", f"ckpt={path}")
        data = read(path)
        _refuse_outside_data(path, data)
        settings, chosen = runtime.SessionOptions(), {"log_severity_level": 3, **(options or {})}
        providers = list(chosen.pop("providers", ["CPUExecutionProvider"]))
        if threads is not None:
            settings.intra_op_num_threads = settings.inter_op_num_threads = threads
        for name, value in chosen.items():
            _set(settings, name, value)
        try:
            self.session = runtime.InferenceSession(data, settings, providers=providers)
        except Exception as error:  # the runtime has a dozen classes of its own for it
            raise cannot_run(path, f"ONNX Runtime {runtime.__version__}", error) from error
        self.record = unpack(self.session.get_modelmeta().custom_metadata_map.get(KEY), path)
        self.input = self.session.get_inputs()[0].name
        self.device = torch.device("cpu")
        self.details = {
            "runtime": "ONNX Runtime", "version": runtime.__version__, "runtime_threads": threads,
            "options": {**chosen, "providers": self.session.get_providers()}, **made(self.record),
        }  # fmt: skip

    def __call__(self, photos: np.ndarray | Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, C) float32 probabilities, on the CPU."""
        return torch.from_numpy(self.session.run(None, {self.input: array(photos)})[0])


def _set(settings: Any, name: str, value: Any) -> None:
    """An attribute of `SessionOptions`; one of those that are enumerations (ORT_ENABLE_BASIC, ...) by its name."""
    kind = type(getattr(settings, name, None))
    if isinstance(value, str) and value in (names := getattr(kind, "__members__", {})):
        value = names[value]
    try:
        if not hasattr(settings, name):
            raise TypeError("SessionOptions has no such attribute")
        setattr(settings, name, value)
    except TypeError as error:
        choices = ", ".join(getattr(kind, "__members__", {})) or f"a value of type {kind.__name__}"
        mend = f"give {choices}" if hasattr(settings, name) else "leave it out"
        raise DeploymentError(f"runtime.{name}={value} is no option of ONNX Runtime: {mend}") from error


def _refuse_outside_data(path: Path, data: bytes) -> None:
    """Litesort's files are whole; one that names other files could make the runtime read any of them."""
    onnx = optional("onnx", f"ckpt={path}")
    try:
        model = onnx.load_from_string(data)
        outside = any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _tensors(model))
    except Exception as error:
        raise DeploymentError(
            f"ckpt={path} cannot be read as an ONNX file: {' '.join(str(error).split())[:150]}"
        ) from error
    if outside:
        raise DeploymentError(f"ckpt={path} keeps weights in other files, which litesort's never do: it is refused")


def _tensors(message: Any) -> Iterable[Any]:
    """All tensors in a protobuf message, however deep."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in [value] if hasattr(value, "ListFields") else value:
            if not hasattr(part, "ListFields"):  # a map of plain values
                continue
            if field.message_type.name == "TensorProto":
                yield part
            yield from _tensors(part)
