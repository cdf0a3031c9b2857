"""Trace a network to ONNX. Several formats convert this graph further."""

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from deployment.export_module import deployable
from deployment.formats.base import INPUT, OUTPUT, converting, image_size

OPSET = 17


def trace_onnx(net: nn.Module, card: Mapping[str, Any], temperature: float, name: str) -> bytes:
    """Trace a network to an ONNX graph from `images` (B, S, S, 3) uint8 to `probabilities` (B, C) float32, for any B.

    Args:
        net: Backbone.
        card: Metadata of the network.
        temperature: Divisor of the logits, above 0.
        name: Name of the format, for messages.

    Returns:
        The content of an ONNX file.

    Raises:
        DeploymentError: The network cannot be exported.
    """
    module = deployable(net, image_size(card), temperature)
    buffer = io.BytesIO()
    with converting(name, card):
        # The dynamo exporter writes the same graph, but takes 20 s per network and needs another package.
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
