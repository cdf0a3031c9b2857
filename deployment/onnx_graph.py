"""The ONNX graph of a network, which several formats start from."""

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from deployment.export_module import deployable
from deployment.formats.base import INPUT, OUTPUT, converting, image_size

OPSET = 17


def trace_onnx(net: nn.Module, card: Mapping[str, Any], temperature: float, name: str) -> bytes:
    """ONNX bytes of a network: `images` (B, S, S, 3) uint8 -> `probabilities` (B, C) float32, any B.

    Args:
        net: Backbone.
        card: Its metadata.
        temperature: Logits are divided by it.
        name: Name of the format, for messages.

    Raises:
        DeploymentError: The network cannot be exported.
    """
    module = deployable(net, image_size(card), temperature)
    buffer = io.BytesIO()
    with converting(name, card):
        # The dynamo exporter writes the same graph, but needs 20 s a network and another package.
        torch.onnx.export(
            module,
            (module.example(),),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
            opset_version=OPSET,
        )
    return buffer.getvalue()
