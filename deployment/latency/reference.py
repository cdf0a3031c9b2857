"""Reference network of the latency ratios, eager or exported."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from deployment.formats import FORMATS, Format, Predictor
from deployment.latency.candidates import Candidate, predictor_candidate, torch_candidate


@dataclass(frozen=True, slots=True)
class Reference:
    """Reference network of the latency ratios. Its weights are random, which does not change its time.

    Attributes:
        name: Name of the model.
        size: Image size, px.
        build: Builds the network.
        folder: Folder in which exported copies are stored.
    """

    name: str
    size: int
    build: Callable[[], nn.Module]
    folder: Path

    def __str__(self) -> str:
        return f"{self.name} {self.size} px"

    def eager(self, device: str) -> Candidate:
        """Return the eager candidate on `device`, in channels_last, which is almost twice as fast."""
        return torch_candidate(self.build().to(device).to(memory_format=torch.channels_last), self.size)

    def exported(self, kind: str, threads: int | None, options: Mapping[str, Any]) -> Candidate:
        """Return the candidate of the network as an fp32 file. The file is written once and stored.

        Args:
            kind: Name of the format.
            threads: Threads of its runtime.
            options: Options of its runtime.

        Raises:
            DeploymentError: The file cannot be written or run.
        """
        export_format = FORMATS[kind]
        path = (
            self.folder
            / f"{self.name}-{self.size}-{kind}-{_cache_key(export_format)}"
            / f"reference{export_format.suffix}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path.parent}.lock"):  # only one of several processes writes the file
            if not path.is_file():
                write_network(self.build(), path, export_format, self.size)
        return predictor_candidate(export_format.load(path, threads, options), self.size)


def write_network(net: nn.Module, path: Path, export_format: Format, size: int) -> Path:
    """Export a network for a measurement of its time. Its metadata are placeholders, which do not change the time.

    Args:
        net: Backbone.
        path: File to write.
        export_format: Format of the file.
        size: Side of the input images in px.

    Returns:
        `path`.

    Raises:
        DeploymentError: The network cannot be exported, or the file cannot be written.
    """
    classes = [str(number) for number in range(int(net.num_classes))]  # type: ignore[arg-type]
    preprocessing = {"size": size, "resize": "pad", "mean": [0.0] * 3, "std": [1.0] * 3}
    model = {"name": "network", "num_classes": len(classes), "kwargs": {}}
    return export_format.write(
        net, path, {"classes": classes, "preprocessing": preprocessing, "config": {}, "model": model, "versions": {}}
    )


def runtime_of(model: nn.Module | Predictor) -> str:
    """Return "eager" for a network, otherwise the name of the predictor's format."""
    card: Mapping[str, Any] = {} if isinstance(model, nn.Module) else getattr(model, "card", {})
    kind = card.get("exported", {}).get("kind")
    return "eager" if kind is None else str(kind)


def _cache_key(export_format: Format) -> str:
    """Return a hash of the format and of the versions of the packages that write its files."""
    packages = {"torch", "timm", *export_format.packages, *export_format.precision_packages.get("fp32", ())}
    written_by = f"{type(export_format).__module__}.{type(export_format).__qualname__}"
    text = json.dumps([written_by, {name: _version(name) for name in sorted(packages)}])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
