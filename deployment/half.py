"""Half-precision weights in a file; what is calculated stays float32 unless the runtime decides otherwise."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deployment import optional

LEAST = 256  # smaller tensors save nothing, and biases and norms are the ones that precision matters for


def halve_onnx(model: Any) -> None:
    """Store the large float32 weights of an ONNX model as float16, with a Cast before their use, in place.

    Runtimes fold the Cast when they load the file: the file is half as large, and answers differ by the rounding of the
    weights alone.
    """
    onnx = optional("onnx", "precision=fp16")
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or int(np.prod(tensor.dims)) < LEAST:
            continue
        name = tensor.name
        values = np.clip(onnx.numpy_helper.to_array(tensor), -65504, 65504).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, f"{name}.fp16"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.fp16"], [name], f"{name}.cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


class HalfWeights(nn.Module):
    """A module whose large weights are stored as float16 and made float32 when they are used."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        for parameter in module.parameters():
            if parameter.numel() >= LEAST:
                parameter.data = parameter.data.clamp(-65504, 65504).half()

    def forward(self, photos: Tensor) -> Tensor:
        """Whatever the module does."""
        wide = {name: parameter.float() for name, parameter in self.module.named_parameters()}
        return torch.func.functional_call(self.module, wide, (photos,))
