"""OpenVINO models, run by OpenVINO."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deployment import DeploymentError, optional
from deployment.loading import array, cannot_run, made, read
from deployment.record import KEY, unpack
from deployment.signals import kept_signal_stack


class OpenVINOPredictor:
    """Run an OpenVINO model (.xml, with its .bin beside it).

    Args:
        path: The .xml file.
        threads: Threads of one answer; None leaves them to the runtime.
        options: Further properties of OpenVINO, e.g. {"INFERENCE_PRECISION_HINT": "bf16"}, and `device`. Without them
            float files are calculated in float32 also where the CPU has something faster and less exact.
    """

    def __init__(self, path: Path, threads: int | None = 1, options: Mapping[str, Any] | None = None) -> None:
        openvino = optional("openvino", f"ckpt={path}")
        chosen = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1"}
        chosen |= {} if threads is None else {"INFERENCE_NUM_THREADS": str(threads)}
        chosen |= dict(options or {})
        where = chosen.pop("device", "CPU")
        read(path)
        if not path.with_suffix(".bin").is_file():
            raise DeploymentError(f"ckpt={path} needs {path.with_suffix('.bin').name} beside it: copy both files")
        try:
            core = openvino.Core()
            model = core.read_model(path)
            text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
            self.record = unpack(text, path)
            with kept_signal_stack():
                compiled = core.compile_model(model, where, chosen)
            self._compile_one = partial(_compile_one, core, model, where, chosen)
        except DeploymentError:
            raise
        except Exception as error:
            raise cannot_run(path, f"OpenVINO {openvino.__version__}", error) from error
        self.request = compiled.create_infer_request()
        self._request_of_one: Any = None
        self.device = torch.device("cpu")
        self.details = {
            "runtime": "OpenVINO", "version": openvino.__version__.partition("-")[0], "runtime_threads": threads,
            "options": {**chosen, "device": where}, **made(self.record),
        }  # fmt: skip

    def __call__(self, photos: np.ndarray | Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, C) float32 probabilities, on the CPU."""
        images = array(photos)
        if len(images) == 1 and self._request_of_one is None:
            self._request_of_one = self._compile_one()
        request = self._request_of_one if len(images) == 1 else self.request
        answer = request.infer([images], share_inputs=True)
        return torch.from_numpy(next(iter(answer.values())).copy())


def _compile_one(core: Any, model: Any, where: str, chosen: Mapping[str, str]) -> Any:
    """A request for single photos: what a belt asks for is up to a tenth faster where no shape is left open."""
    height, width, channels = (dimension.get_length() for dimension in model.inputs[0].get_partial_shape()[1:])
    model.reshape([1, height, width, channels])
    with kept_signal_stack():
        return core.compile_model(model, where, chosen).create_infer_request()
