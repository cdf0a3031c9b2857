"""What an export format is, and what the formats share."""

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
            net: Backbone, as lightning_modules.checkpoint.build_net returns it; it stays as it is.
            path: Name of the file, with `suffix`.
            card: Metadata of the checkpoint, plain data; stored with `describe_export`.
            precision: One of `precisions`, but for int8: `quantize` makes that of a float file.
            temperature: Logits are divided by it before the softmax; above 0.
            verify: Called with the file under a temporary name; what it raises keeps the file from being written.

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
            f1_of: Macro F1 of a predictor. With it, layers return to float until no more than `max_drop` is lost: the
                first, the first three, then the most sensitive.
            max_drop: Macro F1 that may be lost.
            verify: As in `write`.
            rounds: Rounds of the search.

        Returns:
            `path`; the names of the layers that stay in float are in its metadata, `exported.float_layers`.

        Raises:
            DeploymentError: A package is missing, too much is lost after the last round or by the written file, and
                as in `write`.
        """
        raise DeploymentError(f"format={self.name} precision=int8 is invalid: {self.not_offered('int8')}")

    def not_offered(self, precision: str) -> str | None:
        """Why a precision cannot be had, in one line; None where it can. Override it to look at the machine."""
        if precision in self.precisions:
            return None
        return self.reasons.get(precision, f"{self.name} has {', '.join(self.precisions)}")

    def files(self, path: str | Path) -> list[Path]:
        """All files of one model, the one that is given to `load` first."""
        return [Path(path), *(Path(path).with_suffix(suffix) for suffix in self.companions)]

    def require(self, module: str, purpose: str) -> ModuleType:
        """Import a package of this format; DeploymentError says how to install it."""
        return optional(module, purpose, self.extra)

    def check_packages(self, precision: str) -> None:
        """Raise DeploymentError where a package is missing that a precision needs; loads none of them."""
        for package in (*self.packages, *self.precision_packages.get(precision, ())):
            if importlib.util.find_spec(package) is None:
                self.require(package, f"format={self.name} precision={precision}")


def describe_export(card: Mapping[str, Any], name: str, precision: str, temperature: float) -> dict[str, Any]:
    """A card with how the file was made under "exported", beside what the caller has put there already."""
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
    """Side of the images of a card, in pixels; DeploymentError where it has none."""
    size = card["preprocessing"].get("size")
    if not isinstance(size, int):
        raise DeploymentError("ckpt is invalid: its metadata has no image size; train it again with this litesort")
    return size


def read_file(path: Path) -> bytes:
    """Content of a file; DeploymentError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DeploymentError(
            f"ckpt={path} cannot be read: {error.strerror or error}: give an existing file"
        ) from error


def as_array(images: "np.ndarray | Tensor") -> np.ndarray:
    """Images as a contiguous array, which runtimes other than torch take."""
    return np.ascontiguousarray(images if isinstance(images, np.ndarray) else images.cpu().numpy())


def file_details(card: Mapping[str, Any]) -> dict[str, Any]:
    """What a latency entry reports about the file itself."""
    return {"precision": card["exported"].get("precision"), "size": card["preprocessing"]["size"]}


def cannot_run(path: Path, runtime: str, error: Exception | str) -> DeploymentError:
    """The error for a file that its runtime refuses, in one line."""
    line = " ".join(str(error).split())[:200] or type(error).__name__
    return DeploymentError(f"ckpt={path} cannot be run by {runtime}: {line}: export it again, or use another format")


def invalid_option(name: str, value: Any, runtime: str, hint: str) -> DeploymentError:
    """The error for a runtime option that the runtime does not have, or not with this value."""
    return DeploymentError(f"runtime.{name}={value} is no option of {runtime}: {hint}")


@contextlib.contextmanager
def converting(name: str, card: Mapping[str, Any]) -> Iterator[None]:
    """Silence an exporter, and turn its errors into one line.

    Exporters print and warn about torch's internals, and fail with exceptions of any class.
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
    """The error for a network that a format has no operators for."""
    return DeploymentError(
        f"format={name} cannot express {model}: {reason}: leave this format out, or choose another model"
    )


def first_line(error: BaseException | str) -> str:
    """The first line of a message that is not empty."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
