"""From one checkpoint to several files, each proven against it before it gets its name."""

import contextlib
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from deployment import DeploymentError, optional
from deployment.export import SUFFIX, WRITERS
from deployment.parity import Parity, Tolerance, check, compare
from deployment.profile import size_in_bytes
from deployment.quantize import QUANTIZERS
from deployment.runtimes import Predictor, load_exported

PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino"), "int8 openvino": ("nncf",)}
PRECISIONS = ("fp32", "fp16", "int8")
NOT_OFFERED = {("torch", "int8"): "torch.export has no int8 of its own: take format=onnx or openvino"}


@dataclass(frozen=True, slots=True)
class Exporter:
    """Write the files of one checkpoint.

    Attributes:
        net: Backbone, in evaluation mode.
        record: The checkpoint's record, with further facts under "exported".
        folder: Where the files go.
        expected: (N, C) probabilities of the checkpoint, tempered, that files are compared with.
        tolerance: Precision -> what still passes for equal.
        answer: Gives a predictor's probabilities of the same photos, (N, C).
        f1: Macro F1 of such probabilities.
        judge: Macro F1 of a predictor on other photos (validation): what layers are given back by.
        photos: Calibration photos, training ones: batches (B, S, S, 3) uint8.
        max_drop: Macro F1 that int8 may lose.
        temperature: Logits are divided by it.
        name: Stem of the files.
        threads: Threads of the runtimes.
    """

    net: nn.Module
    record: Mapping[str, Any]
    folder: Path
    expected: np.ndarray
    tolerance: Mapping[str, Tolerance]
    answer: Callable[[Predictor], np.ndarray]
    f1: Callable[[np.ndarray], float]
    judge: Callable[[Predictor], float]
    photos: Sequence[np.ndarray]
    max_drop: float = 0.01
    temperature: float = 1.0
    name: str = "model"
    threads: int | None = 1

    def write(self, kind: str, precision: str) -> dict[str, Any]:
        """Write one file: a row that says what it is worth; one that cannot be made is a row that says why.

        Returns:
            Plain data: `file`, `path`, `format`, `precision`, `status` ("completed", "failed", "not offered"), `error`,
            and of a completed one `f1_macro`, `f1_lost`, `difference`, `agreement`, `bytes`, `given_back`.
        """
        path = self.folder / f"{self.name}-{precision}{SUFFIX[kind]}"
        row: dict[str, Any] = {"file": path.name, "path": str(path), "format": kind, "precision": precision}
        if (kind, precision) in NOT_OFFERED:
            return row | {"status": "not offered", "error": NOT_OFFERED[kind, precision]}
        try:
            parity, f1 = self._write(kind, precision, path)
        except DeploymentError as error:
            return row | {"status": "failed", "error": str(error)}
        size = size_in_bytes(path, None)
        given_back = load_exported(path).record["exported"].get("given_back", [])
        return row | {
            "status": "completed", "error": None, "f1_macro": f1,
            "f1_lost": self.f1(self.expected) - f1, "difference": parity.difference,
            "agreement": parity.agreement, "bytes": size, "given_back": given_back,
        }  # fmt: skip

    def _write(self, kind: str, precision: str, path: Path) -> tuple[Parity, float]:
        proven: list[tuple[Parity, float]] = []

        def verify(draft: Path) -> None:
            answers = self.answer(load_exported(draft, self.threads))
            found = compare(answers, self.expected)
            check(found, self.tolerance[precision], path.name)
            proven.append((found, self.f1(answers)))

        settings: dict[str, Any] = {"temperature": self.temperature}
        if precision != "int8":
            WRITERS[kind](self.net, path, self.record, precision=precision, verify=verify, **settings)
            return proven[-1]
        with tempfile.TemporaryDirectory() as room:
            _check_space(Path(room), self.net)
            source = WRITERS[kind](self.net, Path(room) / f"float{SUFFIX[kind]}", self.record, **settings)
            with _named(kind, self.record):
                QUANTIZERS[kind](source, path, self.photos, judge=self.judge, max_drop=self.max_drop, verify=verify)
        return proven[-1]


@contextlib.contextmanager
def _named(kind: str, record: Mapping[str, Any]) -> Iterator[None]:
    """Make one line of a quantiser's errors: one network that it cannot take must not cost the other files."""
    try:
        yield
    except (DeploymentError, MemoryError):
        raise
    except Exception as error:  # they fail as anything
        name, line = record.get("model", {}).get("name", "this network"), " ".join(str(error).split())[:200]
        raise DeploymentError(
            f"format={kind} precision=int8 cannot be made of {name}: {line or type(error).__name__}: "
            "leave it out, or take fp32"
        ) from error


def _check_space(room: Path, net: nn.Module) -> None:
    """Quantisers keep several float copies of a network on disk, and say nothing of use where there is no space."""
    wanted = 4 * sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    if shutil.disk_usage(room).free < wanted:
        raise DeploymentError(
            f"precision=int8 needs {wanted / 1e6:.0f} MB for a while in {room.parent}, where the disk is full: free "
            "some space, or set TMPDIR to a folder that has it"
        )


def combinations(kinds: Any, precisions: Any) -> list[tuple[str, str]]:
    """Every format with every precision, as given: one name or several; DeploymentError for an unknown one."""
    return [
        (kind, precision)
        for kind in _checked("format", kinds, list(SUFFIX))
        for precision in _checked("precision", precisions, PRECISIONS)
    ]


def needs(wanted: Sequence[tuple[str, str]]) -> None:
    """Raise DeploymentError if a package is missing that these formats and precisions need; loads none of them."""
    for kind, precision in wanted:
        for package in (*PACKAGES.get(kind, ()), *PACKAGES.get(f"{precision} {kind}", ())):
            if importlib.util.find_spec(package) is None:
                optional(package, f"format={kind} precision={precision}")


def _checked(what: str, values: Any, known: Sequence[str]) -> list[str]:
    names = [values] if isinstance(values, str) else list(values or [])
    for name in names or [""]:
        if name not in known:
            raise DeploymentError(f"{what}={name} is unknown: choose one or more of {','.join(known)}")
    return list(dict.fromkeys(names))
