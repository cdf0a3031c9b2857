"""Export one checkpoint to several files; each is compared with the checkpoint before it gets its name."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from deployment.complexity import size_in_bytes
from deployment.formats import FORMATS, Format, Predictor, get_format
from deployment.parity import Parity, Tolerance, check, compare
from litesort.errors import DeploymentError

PRECISIONS = ("fp32", "fp16", "bf16", "int8")  # of the formats in this package; other formats may have further ones


@dataclass(frozen=True, slots=True)
class Exporter:
    """Write the files of one checkpoint.

    Attributes:
        net: Backbone, in evaluation mode.
        card: The checkpoint's metadata, with further values under "exported".
        folder: Folder of the files.
        expected: (N, C) probabilities of the checkpoint, at `temperature`, which files are compared with.
        tolerance: Precision -> allowed difference.
        predict_all: Returns a predictor's probabilities of the same images, (N, C).
        f1_score: Macro F1 of such probabilities.
        f1_of: Macro F1 of a predictor on validation images, which decides the layers that stay in float.
        calibration_images: Training images: batches (B, S, S, 3) uint8.
        max_drop: Macro F1 that int8 may lose.
        temperature: Logits are divided by it.
        name: Stem of the files.
        threads: Threads of the runtimes.
    """

    net: nn.Module
    card: Mapping[str, Any]
    folder: Path
    expected: np.ndarray
    tolerance: Mapping[str, Tolerance]
    predict_all: Callable[[Predictor], np.ndarray]
    f1_score: Callable[[np.ndarray], float]
    f1_of: Callable[[Predictor], float]
    calibration_images: Sequence[np.ndarray]
    max_drop: float = 0.01
    temperature: float = 1.0
    name: str = "model"
    threads: int | None = 1

    def write(self, name: str, precision: str) -> dict[str, Any]:
        """Write one file of a format; a file that cannot be written becomes a row with the reason.

        Returns:
            Plain data: `file`, `path`, `format`, `precision`, `status` ("completed", "failed", "not offered"), `error`,
            and of a completed one `f1_macro`, `f1_lost`, `difference`, `agreement`, `bytes`, `float_layers`.
        """
        one = FORMATS[name]
        path = self.folder / f"{self.name}-{precision}{one.suffix}"
        row: dict[str, Any] = {"file": path.name, "path": str(path), "format": name, "precision": precision}
        try:
            if (reason := one.not_offered(precision)) is not None:
                return row | {"status": "not offered", "error": reason}
            parity, f1 = self._write(one, precision, path)
            float_layers = one.load(path, self.threads).card["exported"].get("float_layers", [])
        except DeploymentError as error:
            return row | {"status": "failed", "error": str(error)}
        return row | {
            "status": "completed",
            "error": None,
            "f1_macro": f1,
            "f1_lost": self.f1_score(self.expected) - f1,
            "difference": parity.difference,
            "agreement": parity.agreement,
            "bytes": size_in_bytes(path, None),
            "float_layers": float_layers,
        }

    def _write(self, one: Format, precision: str, path: Path) -> tuple[Parity, float]:
        if precision not in self.tolerance:
            raise DeploymentError(
                f"tolerance.{precision} is not given: give +tolerance.{precision}=null and +agreement.{precision}=0.9"
            )
        verified: list[tuple[Parity, float]] = []

        def verify(draft: Path) -> None:
            probabilities = self.predict_all(one.load(draft, self.threads))
            parity = compare(probabilities, self.expected)
            check(parity, self.tolerance[precision], path.name)
            verified.append((parity, self.f1_score(probabilities)))

        if precision != "int8":
            one.write(self.net, path, self.card, precision=precision, temperature=self.temperature, verify=verify)
            if not verified:
                raise DeploymentError(f"format={one.name} did not call `verify` with the file that it wrote")
            return verified[-1]
        with tempfile.TemporaryDirectory() as folder:
            _check_space(Path(folder), self.net)
            source = one.write(self.net, Path(folder) / f"float{one.suffix}", self.card, temperature=self.temperature)
            with _quantizing(one.name, self.card):
                one.quantize(
                    source, path, self.calibration_images, f1_of=self.f1_of, max_drop=self.max_drop, verify=verify
                )
        return verified[-1]


@contextlib.contextmanager
def _quantizing(name: str, card: Mapping[str, Any]) -> Iterator[None]:
    """Turn any error of a quantiser into a DeploymentError, and the other files are still written."""
    try:
        yield
    except (DeploymentError, MemoryError):
        raise
    except Exception as error:
        model, line = card.get("model", {}).get("name", "this network"), " ".join(str(error).split())[:200]
        raise DeploymentError(
            f"format={name} precision=int8 cannot be made of {model}: {line or type(error).__name__}: "
            "leave it out, or take fp32"
        ) from error


def _check_space(folder: Path, net: nn.Module) -> None:
    """Raise DeploymentError if the disk has no space for the float copies that a quantiser makes."""
    wanted = 4 * sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    if shutil.disk_usage(folder).free < wanted:
        raise DeploymentError(
            f"precision=int8 needs {wanted / 1e6:.0f} MB of temporary space in {folder.parent}, and the disk is full: "
            "free some space, or set TMPDIR to another folder"
        )


def combinations(formats: Any, precisions: Any) -> list[tuple[str, str]]:
    """Return every format with every precision, by name.

    Args:
        formats: One name or several.
        precisions: One name or several.

    Raises:
        DeploymentError: A format or precision is unknown.
    """
    names = _names("format", formats, list(FORMATS))
    known = dict.fromkeys([*PRECISIONS, *(precision for name in names for precision in FORMATS[name].precisions)])
    return [(name, precision) for name in names for precision in _names("precision", precisions, list(known))]


def check_packages(wanted: Sequence[tuple[str, str]]) -> None:
    """Raise DeploymentError if these formats and precisions need a package that is missing; imports none."""
    for name, precision in wanted:
        get_format(name).check_packages(precision)


def _names(key: str, values: Any, known: Sequence[str]) -> list[str]:
    names = [values] if isinstance(values, str) else list(values or [])
    for name in names or [""]:
        if name not in known:
            raise DeploymentError(f"{key}={name} is unknown: choose one or more of {','.join(known)}")
    return list(dict.fromkeys(names))
