"""Export one checkpoint to several files. Each file must pass a comparison with the checkpoint.

All choices are made on validation images: whether a file is accurate enough, which layers of an int8 file stay in
float, and the rejection threshold of a file.
"""

import contextlib
import logging
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
from deployment.parity import Tolerance, check, compare
from litesort.errors import DeploymentError

log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "fp16", "bf16", "int8")  # of the formats in this package; other formats may have further ones


@dataclass(frozen=True, slots=True)
class Exporter:
    """Write the files of one checkpoint.

    Attributes:
        net: Backbone, in evaluation mode.
        card: The checkpoint's metadata, with further values under "exported".
        folder: Folder of the files.
        expected: (N, C) float probabilities of the checkpoint for the validation images, at `temperature`.
        tolerance: Precision -> allowed difference of a file from `expected`.
        predict_val: Maps a predictor to its probabilities for the validation images, (N, C) float.
        f1_score: Maps these probabilities to their macro F1, in [0, 1].
        choose_threshold: Maps these probabilities to a rejection threshold, as keys of a file's metadata and row.
        calibration_images: Training images, batches (B, S, S, 3) uint8.
        max_drop: Macro F1 that int8 may lose on the validation images.
        temperature: Divisor of the logits, above 0.
        name: First part of the file names.
        threads: Threads of the runtimes; None leaves them to each runtime.
    """

    net: nn.Module
    card: Mapping[str, Any]
    folder: Path
    expected: np.ndarray
    tolerance: Mapping[str, Tolerance]
    predict_val: Callable[[Predictor], np.ndarray]
    f1_score: Callable[[np.ndarray], float]
    choose_threshold: Callable[[np.ndarray], Mapping[str, Any]]
    calibration_images: Sequence[np.ndarray]
    max_drop: float = 0.01
    temperature: float = 1.0
    name: str = "model"
    threads: int | None = 1

    def write(self, name: str, precision: str) -> dict[str, Any]:
        """Write one file of a format. A file that cannot be written becomes a row with the reason.

        Args:
            name: Name of the format.
            precision: One of its precisions, e.g. "fp32".

        Returns:
            Plain data: `file`, `path`, `format`, `precision`, `status` ("completed", "failed", "not offered") and
            `error`. A row with status "completed" also has `val/f1_macro` and `val/f1_lost` (both on validation
            images), `difference`, `agreement`, `bytes`, `float_layers` and the keys of `choose_threshold`.
        """
        export_format = FORMATS[name]
        path = self.folder / f"{self.name}-{precision}{export_format.suffix}"
        row: dict[str, Any] = {"file": path.name, "path": str(path), "format": name, "precision": precision}
        try:
            if (reason := export_format.not_offered(precision)) is not None:
                return row | {"status": "not offered", "error": reason}
            measured = self._write(export_format, precision, path)
            float_layers = export_format.load(path, self.threads).card["exported"].get("float_layers", [])
        except DeploymentError as error:
            return row | {"status": "failed", "error": str(error)}
        return row | {
            "status": "completed",
            "error": None,
            **measured,
            "bytes": size_in_bytes(path, None),
            "float_layers": float_layers,
        }

    def _write(self, export_format: Format, precision: str, path: Path) -> dict[str, Any]:
        """Write a file, and return the results of its check."""
        if precision not in self.tolerance:
            raise DeploymentError(
                f"tolerance.{precision} is not given: give +tolerance.{precision}=null and +agreement.{precision}=0.9"
            )
        measured: dict[str, Any] = {}

        def verify(draft: Path) -> None:
            measured.update(self._measure(export_format, precision, draft, path.name))

        if precision != "int8":
            export_format.write(
                self.net, path, self.card, precision=precision, temperature=self.temperature, verify=verify
            )
            if not measured:
                raise DeploymentError(f"format={export_format.name} did not call `verify` with the file that it wrote")
            return measured
        with tempfile.TemporaryDirectory() as folder:
            _check_space(Path(folder), self.net)
            float_path = Path(folder) / f"float{export_format.suffix}"
            source = export_format.write(self.net, float_path, self.card, temperature=self.temperature)
            with _quantizing(export_format.name, self.card):
                export_format.quantize(
                    source,
                    path,
                    self.calibration_images,
                    f1_of=lambda predict: self.f1_score(self.predict_val(predict)),
                    max_drop=self.max_drop,
                    verify=verify,
                )
        return measured

    def _measure(self, export_format: Format, precision: str, draft: Path, name: str) -> dict[str, Any]:
        """Compare a draft with the checkpoint, and store the threshold of its own probabilities in the draft.

        Raises:
            DeploymentError: The draft differs too much from the checkpoint.
        """
        probabilities = self.predict_val(export_format.load(draft, self.threads))
        parity = compare(probabilities, self.expected)
        check(parity, self.tolerance[precision], name)
        threshold = dict(self.choose_threshold(probabilities))
        if threshold["threshold"] is not None:
            try:
                export_format.annotate(draft, {key: threshold[key] for key in ("threshold", "threshold_target")})
            except NotImplementedError:
                line = "%s: format=%s stores no threshold in its files; export.json has it"
                log.warning(line, name, export_format.name)
        f1 = self.f1_score(probabilities)
        return {
            "val/f1_macro": f1,
            "val/f1_lost": self.f1_score(self.expected) - f1,
            "difference": parity.difference,
            "agreement": parity.agreement,
            **threshold,
        }


@contextlib.contextmanager
def _quantizing(name: str, card: Mapping[str, Any]) -> Iterator[None]:
    """Convert any error of a quantiser to a DeploymentError, so that the other files are still written."""
    try:
        yield
    except (DeploymentError, MemoryError):
        raise
    except Exception as error:
        model, line = card.get("model", {}).get("name", "this network"), " ".join(str(error).split())[:200]
        raise DeploymentError(
            f"format={name} precision=int8 cannot be made from {model}: {line or type(error).__name__}: "
            "leave it out, or take fp32"
        ) from error


def _check_space(folder: Path, net: nn.Module) -> None:
    """Raise DeploymentError if the disk has no space for the float copies that a quantiser makes."""
    required = 4 * sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    if shutil.disk_usage(folder).free < required:
        raise DeploymentError(
            f"precision=int8 needs {required / 1e6:.0f} MB of temporary space in {folder.parent}, but the disk is "
            "full: free some space, or set TMPDIR to another folder"
        )


def combinations(formats: Any, precisions: Any) -> list[tuple[str, str]]:
    """Return all pairs of a format and a precision, by name.

    Args:
        formats: Name of a format, or a list of names.
        precisions: Name of a precision, or a list of names.

    Returns:
        Pairs (format, precision), without repetitions.

    Raises:
        DeploymentError: A format or precision is unknown.
    """
    names = _checked_names("format", formats, list(FORMATS))
    known = dict.fromkeys([*PRECISIONS, *(precision for name in names for precision in FORMATS[name].precisions)])
    return [(name, precision) for name in names for precision in _checked_names("precision", precisions, list(known))]


def check_packages(pairs: Sequence[tuple[str, str]]) -> None:
    """Raise DeploymentError if a package for these formats and precisions is missing. No package is imported."""
    for name, precision in pairs:
        get_format(name).check_packages(precision)


def _checked_names(key: str, values: Any, known: Sequence[str]) -> list[str]:
    names = [values] if isinstance(values, str) else list(values or [])
    for name in names or [""]:
        if name not in known:
            raise DeploymentError(f"{key}={name} is unknown: choose one or more of {','.join(known)}")
    return list(dict.fromkeys(names))
