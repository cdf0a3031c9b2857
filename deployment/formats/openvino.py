"""OpenVINO: a pair of files for Intel and ARM CPUs and Intel GPUs."""

import errno
import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor, nn

from deployment.formats.base import (
    F1Of,
    Format,
    Images,
    as_array,
    cannot_run,
    converting,
    describe_export,
    file_details,
    invalid_option,
    read_file,
)
from deployment.int8 import FIRST, SLACK, check_written, describe_int8, first_layers, quiet
from deployment.metadata import KEY, extend, pack, unpack
from deployment.onnx_graph import trace_onnx
from deployment.signal_stack import restore_signal_stack
from deployment.verified_write import Verify, verified_write
from litesort.errors import DeploymentError, first_line

HINT = "INFERENCE_PRECISION_HINT"  # precision that the runtime computes in


class OpenVINOFormat(Format):
    """OpenVINO models (.xml, and weights in .bin); the metadata is in `rt_info`.

    bf16 is a setting of the runtime: the file stores weights as float16, and `exported.precision_hint` in its metadata
    selects bf16 when it is loaded.
    """

    name = "openvino"
    suffix = ".xml"
    companions = (".bin",)
    precisions = ("fp32", "fp16", "bf16", "int8")
    packages = ("onnx", "openvino")
    precision_packages = {"int8": ("nncf",)}  # noqa: RUF012
    extra = "export"

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
        """Write `path` (.xml) and its weights (.bin); fp16 and bf16 store weights in half precision."""
        openvino = self.require("openvino", "format=openvino")
        # OpenVINO's own tracing gives the same graph, but takes four times as long.
        graph = trace_onnx(net, card, temperature, self.name)
        with converting(self.name, card):
            model = openvino.Core().read_model(graph)
        described = describe_export(card, self.name, precision, temperature)
        if precision == "bf16":
            described["exported"]["precision_hint"] = "bf16"
        return self._save(model, path, described, verify)

    def load(
        self, path: Path, threads: int | None = 1, options: Mapping[str, Any] | None = None
    ) -> "OpenVINOPredictor":
        """Open a model in OpenVINO."""
        return OpenVINOPredictor(path, threads, options)

    def annotate(self, path: Path, values: Mapping[str, Any]) -> None:
        """Add values to "exported" in the metadata of a written file, which is in the .xml file."""
        graph = ElementTree.parse(path)
        node = graph.find(f"rt_info/{KEY}")
        if node is None:
            raise DeploymentError(f"{path} has no litesort metadata: export it again")
        node.set("value", pack(extend(unpack(node.get("value"), path), values)))
        graph.write(path, encoding="utf-8", xml_declaration=True)

    def not_offered(self, precision: str) -> str | None:
        """As in `Format.not_offered`; bf16 needs a CPU that computes in it."""
        if precision == "bf16" and not _has_bf16(self.require("openvino", "precision=bf16").Core()):
            return "this CPU does not compute in bf16: take fp32 or int8"
        return super().not_offered(precision)

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
        """Make an int8 model with NNCF; see `Format.quantize`."""
        nncf, openvino = self.require("nncf", "precision=int8"), self.require("openvino", "precision=int8")
        base = OpenVINOPredictor(source)
        single = [batch[place : place + 1] for batch in images for place in range(len(batch))]
        data = nncf.Dataset(single)
        common: dict[str, Any] = {"subset_size": len(single), "preset": nncf.QuantizationPreset.MIXED}
        model = openvino.Core().read_model(source)
        layers = dict.fromkeys(_layers(model))
        with quiet(), restore_signal_stack():
            nncf.set_log_level(logging.ERROR)
            quantized = nncf.quantize(model, data, **common)
            reference = None if f1_of is None else f1_of(base)
            if f1_of is not None and reference is not None:
                wanted, steps = reference - max_drop - SLACK, iter(FIRST)
                while f1_of(_Compiled(openvino.Core().compile_model(quantized, "CPU"), base)) < wanted:
                    if (count := next(steps, None)) is None:
                        model = openvino.Core().read_model(source)
                        quantized = _search(model, data, f1_of, base, max_drop, rounds, common)
                        break
                    common["ignored_scope"] = nncf.IgnoredScope(names=first_layers(layers, count))
                    quantized = nncf.quantize(openvino.Core().read_model(source), data, **common)
        float_layers = _float_layers(quantized)
        if len(float_layers) == len(_layers(quantized)):
            raise DeploymentError(
                f"{path.name}: every layer would return to float: take fp32 or fp16, or raise max_drop"
            )
        check = check_written(path, OpenVINOPredictor, f1_of, reference, max_drop, len(float_layers), verify)
        return self._save(quantized, path, describe_int8(base.card, float_layers), check)

    def _save(self, model: Any, path: Path, card: Mapping[str, Any], verify: Verify | None) -> Path:
        openvino = self.require("openvino", "format=openvino")
        model.set_rt_info(pack(card), [KEY])
        with verified_write(path, verify, self.companions) as draft:
            try:
                openvino.save_model(model, draft, compress_to_fp16=card["exported"]["precision"] in ("fp16", "bf16"))
            except RuntimeError as error:
                if "iostream" in str(error):  # its message for a full disk
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
                raise OSError(first_line(error)) from error
        return path


FORMAT = OpenVINOFormat()


class OpenVINOPredictor:
    """Run an OpenVINO model (.xml, with its .bin beside it).

    Args:
        path: The .xml file.
        threads: Threads of one call; None leaves them to the runtime.
        options: Further properties of OpenVINO, e.g. {"INFERENCE_PRECISION_HINT": "bf16"}, and `device`. By default a
            model runs in float32 even if the CPU has a faster, less exact type, unless it was exported with
            precision=bf16.
    """

    def __init__(self, path: Path, threads: int | None = 1, options: Mapping[str, Any] | None = None) -> None:
        openvino = FORMAT.require("openvino", f"ckpt={path}")
        read_file(path)
        if not path.with_suffix(".bin").is_file():
            raise DeploymentError(f"ckpt={path} needs {path.with_suffix('.bin').name} beside it: copy both files")
        try:
            core = openvino.Core()
            model = core.read_model(path)
            text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
            self.card = unpack(text, path)
            bf16 = self.card["exported"].get("precision_hint") == "bf16" and _has_bf16(core)
            chosen = {"PERFORMANCE_HINT": "LATENCY", HINT: "bf16" if bf16 else "f32", "NUM_STREAMS": "1"}
            chosen |= {} if threads is None else {"INFERENCE_NUM_THREADS": str(threads)}
            chosen |= dict(options or {})
            device = chosen.pop("device", "CPU")
            with restore_signal_stack():
                compiled = core.compile_model(model, device, chosen)
            self._compile_one = partial(_compile_one, core, model, device, chosen)
        except DeploymentError:
            raise
        except Exception as error:
            reason = str(error).strip().rpartition("\n")[2]  # the lines before it name OpenVINO's source files
            for name, value in (options or {}).items():
                if name in reason:
                    raise invalid_option(name, value, "OpenVINO", reason) from error
            raise cannot_run(path, f"OpenVINO {openvino.__version__.partition('-')[0]}", reason) from error
        self.request = compiled.create_infer_request()
        self._request_of_one: Any = None
        self.device = torch.device("cpu")
        self.details = {
            "runtime": "OpenVINO",
            "version": openvino.__version__.partition("-")[0],
            "runtime_threads": threads,
            "options": {**chosen, "device": device},
            "runs_on": device.lower(),
            **file_details(self.card),
        }

    def __call__(self, images: np.ndarray | Tensor) -> Tensor:
        """Map images (B, S, S, 3) uint8 to probabilities (B, C) float32, on the CPU."""
        return torch.from_numpy(self.run(as_array(images)))

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Map images (B, S, S, 3) uint8, contiguous, to probabilities (B, C) float32. Only the runtime is called."""
        if len(pixels) == 1 and self._request_of_one is None:
            self._request_of_one = self._compile_one()
        request = self._request_of_one if len(pixels) == 1 else self.request
        # Without share_outputs, infer() copies what it returns.
        probabilities: np.ndarray = next(iter(request.infer([pixels], share_inputs=True).values()))
        return probabilities


class _Compiled:
    """The predictor of a compiled model that is not written to a file yet."""

    def __init__(self, compiled: Any, like: OpenVINOPredictor) -> None:
        self.compiled, self.device, self.details = compiled, like.device, like.details

    def __call__(self, images: np.ndarray | Tensor) -> Tensor:
        return torch.from_numpy(next(iter(self.compiled(as_array(images)).values())).copy())


def _compile_one(core: Any, model: Any, device: str, chosen: Mapping[str, str]) -> Any:
    """Compile a request for single images; without dynamic dimensions it is up to 10 % faster."""
    height, width, channels = (dimension.get_length() for dimension in model.inputs[0].get_partial_shape()[1:])
    model.reshape([1, height, width, channels])
    with restore_signal_stack():
        return core.compile_model(model, device, chosen).create_infer_request()


def _has_bf16(core: Any) -> bool:
    """Return True if the CPU computes in bf16 (AVX-512 BF16, AMX, or BF16 of Arm)."""
    with restore_signal_stack():  # this loads the CPU plugin
        return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _search(
    model: Any, data: Any, f1_of: F1Of, base: OpenVINOPredictor, max_drop: float, rounds: int, common: dict[str, Any]
) -> Any:
    """Run NNCF's search for the layers that return to float. It takes minutes."""
    nncf = FORMAT.require("nncf", "precision=int8")

    # NNCF ranks layers by the change of these probabilities, because macro F1 has no value per image.
    def score(compiled: Any, images: Any) -> tuple[float, list[list[np.ndarray]]]:
        outputs = [[next(iter(compiled(image).values())).copy()] for image in images]
        return f1_of(_Compiled(compiled, base)), outputs

    return nncf.quantize_with_accuracy_control(
        model,
        data,
        data,
        score,
        max_drop=max_drop,
        drop_type=nncf.DropType.ABSOLUTE,
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(max_num_iterations=rounds),
        **common,
    )


def _float_layers(model: Any) -> list[str]:
    """Return the names of the layers that compute in float."""
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    return [name for name in _layers(model) if not _is_quantized(nodes[name])]


def _is_quantized(layer: Any) -> bool:
    """Return True if a layer has int8 weights; a product without weights, as in attention, if an input is quantised."""
    node = layer.input_value(1).get_node()
    while node.get_type_name() in ("Convert", "Subtract", "Multiply", "Reshape", "Transpose"):  # of stored int8 weights
        node = node.input_value(0).get_node()
    if node.get_type_name() == "Constant":
        return bool(node.get_element_type().is_integral())
    return "FakeQuantize" in (node.get_type_name(), layer.input_value(0).get_node().get_type_name())


def _layers(model: Any) -> list[str]:
    """Return the names of the convolutions and matrix products, from input to output."""
    kinds = ("Convolution", "GroupConvolution", "MatMul")
    return [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() in kinds]
