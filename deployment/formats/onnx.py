"""ONNX: one file that ONNX Runtime, TensorRT and others run."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deployment.formats.base import (
    INPUT,
    F1Of,
    Format,
    Images,
    as_array,
    cannot_run,
    describe_export,
    file_details,
    invalid_option,
    read_file,
)
from deployment.int8 import FIRST, SLACK, check_written, describe_int8, first_layers, quiet, too_much_lost
from deployment.metadata import KEY, extend, pack, unpack
from deployment.onnx_graph import trace_onnx
from deployment.verified_write import Verify, verified_write
from litesort.errors import DeploymentError

FP16_MIN_SIZE = 256  # smaller tensors save nothing, and precision matters most for biases and norms
LAYERS = ("Conv", "Gemm", "MatMul")  # they have weights, and can stay in float
# Operators without weights that are quantised too; otherwise int8 would end at each of them.
BETWEEN = ("Add", "Mul", "GlobalAveragePool", "AveragePool", "MaxPool", "Relu", "Clip")


class OnnxFormat(Format):
    """ONNX files; the metadata is in `metadata_props`."""

    name = "onnx"
    suffix = ".onnx"
    precisions = ("fp32", "fp16", "int8")
    packages = ("onnx", "onnxruntime")
    extra = "export"
    reasons = {"bf16": "ONNX Runtime does not compute in bf16 on a CPU: take format=openvino"}  # noqa: RUF012

    def write(
        self,
        net: nn.Module,
        path: Path,
        card: Mapping[str, Any],
        *,
        precision: str = "fp32",
        temperature: float = 1.0,
        verify: Verify | None = None,
    ) -> Path:
        """Write one ONNX file. fp16 stores weights in half precision; the runtime chooses the compute precision."""
        onnx = self.require("onnx", "format=onnx")
        model = onnx.load_from_string(trace_onnx(net, card, temperature, self.name))
        if precision == "fp16":
            store_weights_as_fp16(model)
        model.producer_name = KEY
        _set_card(model, describe_export(card, self.name, precision, temperature))
        onnx.checker.check_model(model)
        with verified_write(path, verify) as draft:
            draft.write_bytes(model.SerializeToString())
        return path

    def load(self, path: Path, threads: int | None = 1, options: Mapping[str, Any] | None = None) -> "OnnxPredictor":
        """Open a file in ONNX Runtime."""
        return OnnxPredictor(path, threads, options)

    def annotate(self, path: Path, values: Mapping[str, Any]) -> None:
        """Add values to "exported" in the metadata of a written file."""
        model = self.require("onnx", "format=onnx").load(str(path))
        _set_card(model, extend(unpack({prop.key: prop.value for prop in model.metadata_props}.get(KEY), path), values))
        path.write_bytes(model.SerializeToString())

    def quantize(
        self,
        source: Path,
        path: Path,
        images: Images,
        *,
        f1_of: F1Of | None = None,
        max_drop: float = 0.01,
        verify: Verify | None = None,
        rounds: int = 6,
    ) -> Path:
        """Make an int8 file (QDQ, int8 weights per channel, uint8 activations); see `Format.quantize`."""
        self.require("onnxruntime.quantization", "precision=int8")
        base = OnnxPredictor(source)
        parts, before = _parts(source)
        with tempfile.TemporaryDirectory() as folder:
            draft, float_layers = Path(folder) / "int8.onnx", list[str]()
            _quantize_static(source, draft, images, nodes_to_exclude=before)
            reference = None if f1_of is None else f1_of(base)
            if f1_of is not None and reference is not None:
                wanted, order = reference - max_drop - SLACK, list[str]()
                for number in range(rounds + 1):
                    if (reached := f1_of(OnnxPredictor(draft))) >= wanted:
                        break
                    if number == rounds:
                        raise too_much_lost(path, reference - reached, max_drop, len(float_layers))
                    if number < len(FIRST):
                        float_layers = first_layers(parts, FIRST[number])
                    else:  # takes minutes
                        order = order or _by_sensitivity(source, parts, images, Path(folder))
                        float_layers = order[: max(1, min(len(order) - 1, len(order) >> (rounds - 1 - number)))]
                    _quantize_static(source, draft, images, nodes_to_exclude=[*before, *_nodes(parts, float_layers)])
            check = check_written(path, OnnxPredictor, f1_of, reference, max_drop, len(float_layers), verify)
            _rewrite(draft, path, describe_int8(base.card, float_layers), check)
        return path


FORMAT = OnnxFormat()


class OnnxPredictor:
    """Run an ONNX file in ONNX Runtime. A model that needs other files or custom operators is refused.

    Args:
        path: The file.
        threads: Threads of one call; None leaves them to the runtime.
        options: Further attributes of `onnxruntime.SessionOptions`; `providers`, a list of names; `session`, entries
            of its configuration, e.g. {"session": {"intra_op": {"allow_spinning": 0}}}.
    """

    def __init__(self, path: Path, threads: int | None = 1, options: Mapping[str, Any] | None = None) -> None:
        runtime = FORMAT.require("onnxruntime", f"ckpt={path}")
        data = read_file(path)
        _refuse_external_data(path, data)
        settings, chosen = runtime.SessionOptions(), {"log_severity_level": 3, **(options or {})}
        providers = list(chosen.pop("providers", ["CPUExecutionProvider"]))
        if threads is not None:
            settings.intra_op_num_threads = settings.inter_op_num_threads = threads
        if not isinstance(session := chosen.pop("session", {}), Mapping):
            hint = "give entries, e.g. runtime.session.intra_op.allow_spinning=0"
            raise invalid_option("session", session, "ONNX Runtime", hint)
        entries = dict(_flat("session", session))
        for name, value in chosen.items():
            _set_option(settings, name, value)
        for name, value in entries.items():
            settings.add_session_config_entry(name, value)
        try:
            self.session = runtime.InferenceSession(data, settings, providers=providers)
        except Exception as error:  # the runtime has many exception classes
            raise cannot_run(path, f"ONNX Runtime {runtime.__version__}", error) from error
        self.card = unpack(self.session.get_modelmeta().custom_metadata_map.get(KEY), path)
        self.input = self.session.get_inputs()[0].name
        self.device = torch.device("cpu")
        self.details = {
            "runtime": "ONNX Runtime",
            "version": runtime.__version__,
            "runtime_threads": threads,
            "options": {**chosen, **entries, "providers": self.session.get_providers()},
            "runs_on": _device(self.session.get_providers()),
            **file_details(self.card),
        }

    def __call__(self, images: np.ndarray | Tensor) -> Tensor:
        """Map images (B, S, S, 3) uint8 to probabilities (B, C) float32, on the CPU."""
        return torch.from_numpy(self.run(as_array(images)))

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Map images (B, S, S, 3) uint8, contiguous, to probabilities (B, C) float32. Only the runtime is called."""
        probabilities: np.ndarray = self.session.run(None, {self.input: pixels})[0]
        return probabilities


def _device(providers: Sequence[str]) -> str:
    """Return the device of the first provider: "cpu", "cuda", or the provider's name."""
    known = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}
    return known.get(providers[0], providers[0]) if providers else "cpu"


def store_weights_as_fp16(model: Any) -> None:
    """Store the large float32 weights of an ONNX model as float16, with a Cast before their use, in place.

    The file is half as large. Runtimes fold the Cast when they load the file, so probabilities differ only by the
    rounding of the weights.
    """
    onnx = FORMAT.require("onnx", "precision=fp16")
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or int(np.prod(tensor.dims)) < FP16_MIN_SIZE:
            continue
        name = tensor.name
        values = np.clip(onnx.numpy_helper.to_array(tensor), -65504, 65504).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, f"{name}.fp16"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.fp16"], [name], f"{name}.cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the dotted name and the text of each nested value."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(f"{name}.{key}", part)
    else:
        yield name, str(value)


def _set_option(settings: Any, name: str, value: Any) -> None:
    """Set an attribute of `SessionOptions`; enumerations (ORT_ENABLE_BASIC, ...) are given by name."""
    kind = type(getattr(settings, name, None))
    if isinstance(value, str) and value in (names := getattr(kind, "__members__", {})):
        value = names[value]
    try:
        if not hasattr(settings, name):
            raise TypeError("SessionOptions has no such attribute")
        setattr(settings, name, value)
    except TypeError as error:
        choices = ", ".join(getattr(kind, "__members__", {})) or f"a value of type {kind.__name__}"
        hint = f"give {choices}" if hasattr(settings, name) else "leave it out"
        raise invalid_option(name, value, "ONNX Runtime", hint) from error


def _refuse_external_data(path: Path, data: bytes) -> None:
    """Raise DeploymentError if the model keeps weights in other files, because the runtime would read any of them."""
    onnx = FORMAT.require("onnx", f"ckpt={path}")
    try:
        model = onnx.load_from_string(data)
        external = any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _tensors(model))
    except Exception as error:
        raise DeploymentError(
            f"ckpt={path} cannot be read as an ONNX file: {' '.join(str(error).split())[:150]}"
        ) from error
    if external:
        raise DeploymentError(
            f"ckpt={path} keeps weights in other files, which litesort does not load: export it again"
        )


def _tensors(message: Any) -> Iterable[Any]:
    """Yield all tensors in a protobuf message, at any depth."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in [value] if hasattr(value, "ListFields") else value:
            if not hasattr(part, "ListFields"):  # a map of plain values
                continue
            if field.message_type.name == "TensorProto":
                yield part
            yield from _tensors(part)


def _quantize_static(source: Path, target: Path, images: Images, **which: list[str]) -> None:
    quantization = FORMAT.require("onnxruntime.quantization", "precision=int8")
    batches = iter(images)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(batches, None)
            return None if batch is None else {INPUT: batch}

    with quiet():
        # CPUs multiply signed weights and unsigned activations fastest.
        quantization.quantize_static(
            str(source),
            str(target),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=[*LAYERS, *BETWEEN],
            **which,
        )


def _parts(source: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Return the layers with weights, each with the nodes that follow it, and the nodes before all layers.

    The nodes before all layers are the normalisation, and stay in float. A layer returns to float together with the
    nodes that follow it, because rounding between float layers costs precision and saves nothing.
    """
    parts: dict[str, list[str]] = {}
    before: list[str] = []
    owners: dict[str, set[str]] = {}
    for node in FORMAT.require("onnx", "precision=int8").load(str(source)).graph.node:
        own = {node.name} if node.op_type in LAYERS else set().union(*(owners.get(name, set()) for name in node.input))
        owners |= dict.fromkeys(node.output, own)
        for layer in own:
            parts.setdefault(layer, []).append(node.name)
        if not own:
            before.append(node.name)
    return parts, before


def _nodes(parts: Mapping[str, list[str]], layers: Sequence[str]) -> list[str]:
    """Return the nodes of some layers and of the nodes that follow them, each once."""
    return list(dict.fromkeys(node for layer in layers for node in parts[layer]))


def _by_sensitivity(source: Path, parts: Mapping[str, list[str]], images: Images, folder: Path) -> list[str]:
    """Order layers by the change of the probabilities when only that layer is int8, the largest first."""
    batch = next(iter(images))
    reference, changes = OnnxPredictor(source)(batch), {}
    for layer, nodes in parts.items():
        _quantize_static(source, folder / "one.onnx", [batch], nodes_to_quantize=nodes)
        changes[layer] = float((OnnxPredictor(folder / "one.onnx")(batch) - reference).abs().mean())
    return sorted(parts, key=lambda layer: -changes[layer])


def _rewrite(draft: Path, path: Path, card: dict[str, Any], verify: Verify | None) -> None:
    model = FORMAT.require("onnx", "precision=int8").load(str(draft))
    _set_card(model, card)
    with verified_write(path, verify) as final:
        final.write_bytes(model.SerializeToString())


def _set_card(model: Any, card: Mapping[str, Any]) -> None:
    """Make a card the only metadata of a model, in place."""
    del model.metadata_props[:]
    FORMAT.require("onnx", "format=onnx").helper.set_model_props(model, {KEY: pack(card)})
