"""Export one checkpoint to several files; each is compared with the checkpoint before it gets its name.

All choices are made on validation images: whether a file is good enough, which layers of an int8 file stay in float,
and its rejection threshold.
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
        expected: (N, C) probabilities of the checkpoint for the validation images, at `temperature`.
        tolerance: Precision -> allowed difference of a file from `expected`.
        predict_val: Returns a predictor's probabilities of the validation images, (N, C).
        f1_score: Macro F1 of such probabilities.
        choose_threshold: Rejection threshold of such probabilities: keys for the metadata of a file, and for its row.
        calibration_images: Training images: batches (B, S, S, 3) uint8.
        max_drop: Macro F1 that int8 may lose on the validation images.
        temperature: Logits are divided by it.
        name: Stem of the files.
        threads: Threads of the runtimes.
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
        """Write one file of a format; a file that cannot be written becomes a row with the reason.

        Returns:
            Plain data: `file`, `path`, `format`, `precision`, `status` ("completed", "failed", "not offered"), `error`,
            and of a completed one `val/f1_macro`, `val/f1_lost` (both on validation images), `difference`, `agreement`,
            `bytes`, `float_layers` and the keys of `choose_threshold`.
        """
        one = FORMATS[name]
        path = self.folder / f"{self.name}-{precision}{one.suffix}"
        row: dict[str, Any] = {"file": path.name, "path": str(path), "format": name, "precision": precision}
        try:
            if (reason := one.not_offered(precision)) is not None:
                return row | {"status": "not offered", "error": reason}
            found = self._write(one, precision, path)
            float_layers = one.load(path, self.threads).card["exported"].get("float_layers", [])
        except DeploymentError as error:
            return row | {"status": "failed", "error": str(error)}
        return row | {
            "status": "completed",
            "error": None,
            **found,
            "bytes": size_in_bytes(path, None),
            "float_layers": float_layers,
        }

    def _write(self, one: Format, precision: str, path: Path) -> dict[str, Any]:
        """Write a file, and return what was measured on it before it got its name."""
        if precision not in self.tolerance:
            raise DeploymentError(
                f"tolerance.{precision} is not given: give +tolerance.{precision}=null and +agreement.{precision}=0.9"
            )
        found: dict[str, Any] = {}

        def verify(draft: Path) -> None:
            found.update(self._measure(one, precision, draft, path.name))

        if precision != "int8":
            one.write(self.net, path, self.card, precision=precision, temperature=self.temperature, verify=verify)
            if not found:
                raise DeploymentError(f"format={one.name} did not call `verify` with the file that it wrote")
            return found
        with tempfile.TemporaryDirectory() as folder:
            _check_space(Path(folder), self.net)
            source = one.write(self.net, Path(folder) / f"float{one.suffix}", self.card, temperature=self.temperature)
            with _quantizing(one.name, self.card):
                one.quantize(
                    source,
                    path,
                    self.calibration_images,
                    f1_of=lambda predict: self.f1_score(self.predict_val(predict)),
                    max_drop=self.max_drop,
                    verify=verify,
                )
        return found

    def _measure(self, one: Format, precision: str, draft: Path, name: str) -> dict[str, Any]:
        """Compare a draft with the checkpoint, and store the threshold of its own probabilities in it.

        Raises:
            DeploymentError: It differs too much.
        """
        probabilities = self.predict_val(one.load(draft, self.threads))
        parity = compare(probabilities, self.expected)
        check(parity, self.tolerance[precision], name)
        threshold = dict(self.choose_threshold(probabilities))
        if threshold["threshold"] is not None:
            try:
                one.annotate(draft, {key: threshold[key] for key in ("threshold", "threshold_target")})
            except NotImplementedError:
                log.warning("%s: format=%s stores no threshold in its files; export.json has it", name, one.name)
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
