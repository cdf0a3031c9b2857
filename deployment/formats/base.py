"""Base class of export formats, and functions that formats share."""

import contextlib
import errno
import importlib.util
import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from deployment import optional
from deployment.metadata import FORMAT
from deployment.verified_write import Verify
from litesort.errors import DeploymentError, first_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

INPUT, OUTPUT = "images", "probabilities"  # names in the graph


class Predictor(Protocol):
    """A checkpoint or an exported file that classifies images.

    Attributes:
        device: Device of the returned probabilities.
        details: Plain values for reports: runtime, version, threads and options.
    """

    device: "torch.device"
    details: dict[str, Any]

    def __call__(self, images: "np.ndarray | Tensor") -> "Tensor":
        """Map images (B, S, S, 3) uint8 RGB to probabilities (B, C) float32, on `device`."""
        ...


class ExportedPredictor(Predictor, Protocol):
    """The predictor of an exported file.

    A method `run`, from array to array, is optional. The latency benchmark then times it instead of the call, because a
    deployed program has no tensors.

    Attributes:
        card: The stored metadata, plain data: "classes", "preprocessing", "config", "model", "exported", ...
    """

    card: dict[str, Any]


Images = Iterable[np.ndarray]  # batches (B, S, S, 3) uint8 that can be iterated several times
F1Of = Callable[[Predictor], float]  # macro F1 of a predictor, in [0, 1]


class Format(ABC):
    """One export format. A subclass sets the class attributes and defines `write` and `load`.

    If it also defines `annotate`, its files store the threshold that `predict.py min_confidence=auto` uses.

    Attributes:
        name: Name of the format, as in `format=NAME`.
        suffix: Suffix of the file that `load` takes, e.g. ".onnx" or ".ncnn.param".
        precisions: What `write` and `quantize` take, e.g. ("fp32", "int8").
        companions: Suffixes of further files of one model. They replace the last part of `suffix`: with ".bin",
            model.xml has the companion model.bin.
        packages: Import names of packages that every precision needs.
        precision_packages: Precision -> import names of further packages.
        extra: The extra of pyproject.toml that installs these packages; "" for none.
        reasons: Precision -> the reason why this format lacks it, in one line.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    companions: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ()
    precision_packages: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    extra: ClassVar[str] = ""
    reasons: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def write(
        self,
        net: "nn.Module",
        path: Path,
        card: Mapping[str, Any],
        *,
        precision: str = "fp32",
        temperature: float = 1.0,
        verify: Verify | None = None,
    ) -> Path:
        """Write a model that maps images (B, S, S, 3) uint8 to probabilities (B, C) float32.

        Conversion, normalisation, temperature and softmax belong to the model.

        Args:
            net: Backbone, as lightning_modules.checkpoint.build_net returns it; it does not change.
            path: Path of the file, with `suffix`.
            card: Metadata of the checkpoint, plain data; stored with `describe_export`.
            precision: One of `precisions`, except int8, which `quantize` makes from a float file.
            temperature: Logits are divided by it before the softmax; above 0.
            verify: Called with the file under a temporary name. If it raises an exception, the file is not written.

        Returns:
            `path`.

        Raises:
            DeploymentError: A package is missing, the network cannot be exported, or the disk is full.
        """

    @abstractmethod
    def load(self, path: Path, threads: int | None = 1, options: Mapping[str, Any] | None = None) -> ExportedPredictor:
        """Open a file that `write` or `quantize` wrote. No code from the file is run.

        Args:
            path: The file.
            threads: Threads of one call; None leaves them to the runtime.
            options: Further settings of the runtime, by its own names.

        Returns:
            A predictor with the stored metadata as `card`.

        Raises:
            DeploymentError: The file or an option cannot be used.
        """

    def quantize(
        self,
        source: Path,
        path: Path,
        images: Images,
        *,
        f1_of: F1Of | None = None,
        max_drop: float = 0.01,
        verify: Verify | None = None,
        rounds: int = 6,
    ) -> Path:
        """Make an int8 file from a float file.

        Args:
            source: A float file of this format.
            path: Path of the new file.
            images: Calibration images; batches (B, S, S, 3) uint8 that can be iterated several times.
            f1_of: Maps a predictor to its macro F1, in [0, 1]. If it is given, layers return to float until at most
                `max_drop` is lost: the first layer, the first three, then the most sensitive ones.
            max_drop: Largest allowed loss of macro F1.
            verify: As in `write`.
            rounds: Largest number of rounds of the search.

        Returns:
            `path`; its metadata names the layers in float under `exported.float_layers`.

        Raises:
            DeploymentError: The last round or the written file loses more than `max_drop`, or as in `write`.
        """
        raise DeploymentError(f"format={self.name} precision=int8 is invalid: {self.not_offered('int8')}")

    def annotate(self, path: Path, values: Mapping[str, Any]) -> None:
        """Add values to "exported" in the metadata of a written file, such as its rejection threshold.

        Args:
            path: The file, under its temporary name.
            values: Plain data.
        """
        raise NotImplementedError

    def not_offered(self, precision: str) -> str | None:
        """Return the reason why a precision is not offered, in one line; None if it is offered.

        Override it to check the machine.
        """
        if precision in self.precisions:
            return None
        return self.reasons.get(precision, f"{self.name} has {', '.join(self.precisions)}")

    def files(self, path: str | Path) -> list[Path]:
        """Return all files of one model. The first one is the file that `load` takes."""
        return [Path(path), *(Path(path).with_suffix(suffix) for suffix in self.companions)]

    def require(self, module: str, purpose: str) -> ModuleType:
        """Import a package of this format. A missing package raises DeploymentError with the command to install it."""
        return optional(module, purpose, self.extra)

    def check_packages(self, precision: str) -> None:
        """Raise DeploymentError if a package that a precision needs is missing. No package is imported."""
        for package in (*self.packages, *self.precision_packages.get(precision, ())):
            if importlib.util.find_spec(package) is None:
                self.require(package, f"format={self.name} precision={precision}")


def describe_export(card: Mapping[str, Any], name: str, precision: str, temperature: float) -> dict[str, Any]:
    """Return a copy of a card with the description of an exported file under "exported".

    Args:
        card: Metadata of the checkpoint. Values under "exported" are kept.
        name: Name of the format.
        precision: Precision of the file.
        temperature: Divisor of the logits.

    Raises:
        DeploymentError: The card has no image size.
    """
    import torch

    size = image_size(card)
    exported = {
        **card.get("exported", {}),
        "format": FORMAT,
        "kind": name,
        "precision": precision,
        "temperature": temperature,
        "input": f"{INPUT}: (B, {size}, {size}, 3) uint8 RGB",
        "output": f"{OUTPUT}: (B, {len(card['classes'])}) float32",
        "torch": str(torch.__version__),
    }
    return {**card, "exported": exported}


def image_size(card: Mapping[str, Any]) -> int:
    """Return the image size of a card in pixels; DeploymentError if it has none."""
    size = card["preprocessing"].get("size")
    if not isinstance(size, int):
        raise DeploymentError("ckpt is invalid: its metadata has no image size; train it again with this litesort")
    return size


def read_file(path: Path) -> bytes:
    """Return the content of a file; DeploymentError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DeploymentError(
            f"ckpt={path} cannot be read: {error.strerror or error}: give an existing file"
        ) from error


def as_array(images: "np.ndarray | Tensor") -> np.ndarray:
    """Return images (B, S, S, 3) as a contiguous array. Runtimes other than torch need one."""
    return np.ascontiguousarray(images if isinstance(images, np.ndarray) else images.cpu().numpy())


def file_details(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the precision and image size of a file, for its latency entry."""
    return {"precision": card["exported"].get("precision"), "size": card["preprocessing"]["size"]}


def cannot_run(path: Path, runtime: str, error: Exception | str) -> DeploymentError:
    """Return the error for a file that its runtime cannot run."""
    line = " ".join(str(error).split())[:200] or type(error).__name__
    return DeploymentError(f"ckpt={path} cannot be run by {runtime}: {line}: export it again, or use another format")


def invalid_option(name: str, value: Any, runtime: str, hint: str) -> DeploymentError:
    """Return the error for an unknown runtime option, or an invalid value of one."""
    return DeploymentError(f"runtime.{name}={value} is not an option of {runtime}: {hint}")


@contextlib.contextmanager
def converting(name: str, card: Mapping[str, Any]) -> Iterator[None]:
    """Suppress the output of an exporter, and convert its errors to DeploymentError.

    Exporters print warnings about torch's internals, and raise exceptions of any class.
    """
    model = card.get("model", {}).get("name", "this network")
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except (DeploymentError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DeploymentError(
                f"format={name} cannot be written: the disk is full: free some space, or set TMPDIR to another folder"
            ) from error
        raise cannot_express(name, model, first_line(error)) from error


def cannot_express(name: str, model: str, reason: str) -> DeploymentError:
    """Return the error for a network with operators that the format lacks."""
    return DeploymentError(
        f"format={name} cannot express {model}: {reason}: leave this format out, or choose another model"
    )
