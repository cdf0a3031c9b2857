"""The network that times are divided by, eager or exported."""

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
    """The network that times are divided by; its weights are random, which does not change its time.

    Attributes:
        name: Name of the model.
        size: Image size, px.
        build: Returns the network.
        folder: Exported copies are kept here.
    """

    name: str
    size: int
    build: Callable[[], nn.Module]
    folder: Path

    def __str__(self) -> str:
        return f"{self.name} {self.size} px"

    def eager(self, device: str) -> Candidate:
        """Make the candidate of the network in PyTorch, channels_last, which is almost twice as fast."""
        return torch_candidate(self.build().to(device).to(memory_format=torch.channels_last), self.size)

    def exported(self, kind: str, threads: int | None, options: Mapping[str, Any]) -> Candidate:
        """Make the candidate of the network as an fp32 file; it is written once and kept.

        Args:
            kind: Name of the format.
            threads: Threads of its runtime.
            options: Options of its runtime.

        Raises:
            DeploymentError: The file cannot be written or run.
        """
        one = FORMATS[kind]
        path = self.folder / f"{self.name}-{self.size}-{kind}-{_key(one)}" / f"reference{one.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path.parent}.lock"):  # several processes write it once
            if not path.is_file():
                write_network(self.build(), path, one, self.size)
        return predictor_candidate(one.load(path, threads, options), self.size)


def write_network(net: nn.Module, path: Path, one: Format, size: int) -> Path:
    """Export a network to be timed; its metadata has placeholders, which do not change the time."""
    classes = [str(number) for number in range(int(net.num_classes))]  # type: ignore[arg-type]
    square = {"size": size, "resize": "pad", "mean": [0.0] * 3, "std": [1.0] * 3}
    model = {"name": "network", "num_classes": len(classes), "kwargs": {}}
    return one.write(
        net, path, {"classes": classes, "preprocessing": square, "config": {}, "model": model, "versions": {}}
    )


def runtime_of(model: nn.Module | Predictor) -> str:
    """Return "eager" for a network, else the format of the file that a predictor runs."""
    card: Mapping[str, Any] = {} if isinstance(model, nn.Module) else getattr(model, "card", {})
    kind = card.get("exported", {}).get("kind")
    return "eager" if kind is None else str(kind)


def _key(one: Format) -> str:
    """Hash of what an exported file depends on: the format and the versions of the packages that write it."""
    packages = {"torch", "timm", *one.packages, *one.precision_packages.get("fp32", ())}
    written_by = f"{type(one).__module__}.{type(one).__qualname__}"
    text = json.dumps([written_by, {name: _version(name) for name in sorted(packages)}])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
