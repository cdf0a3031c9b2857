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
from deployment.placing import Verify
from litesort.errors import DeploymentError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

INPUT, OUTPUT = "images", "probabilities"  # names in the graph


class Predictor(Protocol):
    """A checkpoint or an exported file that classifies images.

    Attributes:
        device: Where the probabilities are.
        details: Plain values for reports: runtime, version, threads and options.
    """

    device: "torch.device"
    details: dict[str, Any]

    def __call__(self, images: "np.ndarray | Tensor") -> "Tensor":
        """(B, S, S, 3) uint8 RGB -> (B, C) float32 probabilities, on `device`."""
        ...


class ExportedPredictor(Predictor, Protocol):
    """The predictor of an exported file.

    Attributes:
        card: The stored metadata, plain data: "classes", "preprocessing", "config", "model", "exported", ...
    """

    card: dict[str, Any]


Images = Iterable[np.ndarray]  # batches (B, S, S, 3) uint8 that can be iterated several times
F1Of = Callable[[Predictor], float]  # macro F1 of a predictor, in [0, 1]


class Format(ABC):
    """One export format. A subclass sets the class attributes and defines `write` and `load`.

    If it defines `annotate` too, its files hold the threshold that `predict.py min_confidence=auto` uses.

    Attributes:
        name: As in `format=NAME`.
        suffix: End of the name of the file that is given to `load`, e.g. ".onnx" or ".ncnn.param".
        precisions: What `write` and `quantize` take, e.g. ("fp32", "int8").
        companions: Suffixes of further files of one model. They replace the last part of `suffix`: model.xml and
            ".bin" make model.bin.
        packages: Import names of packages that every precision needs.
        precision_packages: Precision -> import names of further packages.
        extra: The extra of pyproject.toml that installs them; "" for none.
        reasons: Precision -> why this format lacks it, in one line.
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
            path: Name of the file, with `suffix`.
            card: Metadata of the checkpoint, plain data; stored with `describe_export`.
            precision: One of `precisions`, except int8, which `quantize` makes of a float file.
            temperature: Logits are divided by it before the softmax; above 0.
            verify: Called with the file under a temporary name; if it raises, the file is not written.

        Returns:
            `path`.

        Raises:
            DeploymentError: A package is missing, the network cannot be exported, or the disk is full.
        """

    @abstractmethod
    def load(self, path: Path, threads: int | None = 1, options: Mapping[str, Any] | None = None) -> ExportedPredictor:
        """Open a file that `write` or `quantize` wrote; no code from the file is run.

        Args:
            path: The file.
            threads: Threads of one call; None leaves them to the runtime.
            options: Further settings of the runtime, by its own names.

        Returns:
            A predictor that holds the stored metadata.

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
        """Make an int8 file of a float one.

        Args:
            source: A float file of this format.
            path: Name of the new file.
            images: Calibration images; batches (B, S, S, 3) uint8 that can be iterated several times.
            f1_of: Macro F1 of a predictor. If given, layers return to float until at most `max_drop` is lost: the
                first, the first three, then the most sensitive.
            max_drop: Macro F1 that may be lost.
            verify: As in `write`.
            rounds: Rounds of the search.

        Returns:
            `path`; its metadata names the layers in float under `exported.float_layers`.

        Raises:
            DeploymentError: The last round or the written file loses more than `max_drop`, or as in `write`.
        """
        raise DeploymentError(f"format={self.name} precision=int8 is invalid: {self.not_offered('int8')}")

    def annotate(self, path: Path, values: Mapping[str, Any]) -> None:
        """Add values to "exported" in the metadata of a written file, such as its rejection threshold.

        Args:
            path: The file; the exporter calls this before the file gets its final name.
            values: Plain data.
        """
        raise NotImplementedError

    def not_offered(self, precision: str) -> str | None:
        """Return why a precision is not offered, in one line; None if it is. Override it to check the machine."""
        if precision in self.precisions:
            return None
        return self.reasons.get(precision, f"{self.name} has {', '.join(self.precisions)}")

    def files(self, path: str | Path) -> list[Path]:
        """Return all files of one model; the first is the one that `load` takes."""
        return [Path(path), *(Path(path).with_suffix(suffix) for suffix in self.companions)]

    def require(self, module: str, purpose: str) -> ModuleType:
        """Import a package of this format; DeploymentError says how to install it."""
        return optional(module, purpose, self.extra)

    def check_packages(self, precision: str) -> None:
        """Raise DeploymentError if a package that a precision needs is missing; imports none."""
        for package in (*self.packages, *self.precision_packages.get(precision, ())):
            if importlib.util.find_spec(package) is None:
                self.require(package, f"format={self.name} precision={precision}")


def describe_export(card: Mapping[str, Any], name: str, precision: str, temperature: float) -> dict[str, Any]:
    """Return a card with the description of the file under "exported"; values of the caller there are kept."""
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
    """Return images as a contiguous array, as runtimes other than torch need."""
    return np.ascontiguousarray(images if isinstance(images, np.ndarray) else images.cpu().numpy())


def file_details(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a file that latency entries report."""
    return {"precision": card["exported"].get("precision"), "size": card["preprocessing"]["size"]}


def cannot_run(path: Path, runtime: str, error: Exception | str) -> DeploymentError:
    """Return the one-line error for a file that its runtime refuses."""
    line = " ".join(str(error).split())[:200] or type(error).__name__
    return DeploymentError(f"ckpt={path} cannot be run by {runtime}: {line}: export it again, or use another format")


def invalid_option(name: str, value: Any, runtime: str, hint: str) -> DeploymentError:
    """Return the error for an unknown runtime option, or an invalid value of one."""
    return DeploymentError(f"runtime.{name}={value} is not an option of {runtime}: {hint}")


@contextlib.contextmanager
def converting(name: str, card: Mapping[str, Any]) -> Iterator[None]:
    """Silence an exporter, and turn its errors into a DeploymentError.

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
    """Return the error for a network that needs operators the format lacks."""
    return DeploymentError(
        f"format={name} cannot express {model}: {reason}: leave this format out, or choose another model"
    )


def first_line(error: BaseException | str) -> str:
    """Return the first line of a message that is not empty."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
