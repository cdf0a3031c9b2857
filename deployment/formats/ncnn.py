"""ncnn: three small files for Arm boards such as the Raspberry Pi, converted by pnnx."""

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deployment.export_module import Deployable, deployable
from deployment.formats.base import (
    INPUT,
    OUTPUT,
    Format,
    as_array,
    cannot_express,
    cannot_run,
    converting,
    describe_export,
    file_details,
    image_size,
    invalid_option,
    read_file,
)
from deployment.metadata import extend, pack, unpack
from deployment.verified_write import Verify, verified_write
from litesort.errors import DeploymentError, first_line

TIMEOUT = 900  # seconds; pnnx takes 3 to 10
# A layer that ncnn lacks may crash the process, so a new file first runs in a subprocess.
FIRST_RUN = """
import sys
import numpy, ncnn
param, weights, size, classes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
net = ncnn.Net()
net.opt.use_vulkan_compute = False
if net.load_param(param) or net.load_model(weights):
    sys.exit("ncnn cannot load it")
extractor = net.create_extractor()
pixels = numpy.zeros((size, size, 3), numpy.uint8)
extractor.input("images", ncnn.Mat.from_pixels(pixels, ncnn.Mat.PixelType.PIXEL_RGB, size, size))
status, output = extractor.extract("probabilities")
if status or numpy.array(output).size != classes:
    sys.exit("ncnn does not return one probability per class")
"""


class NcnnFormat(Format):
    """ncnn models: NAME.ncnn.param (layers), NAME.ncnn.bin (weights) and NAME.ncnn.json (metadata).

    ncnn has no uint8 tensors, so `ncnn.Mat.from_pixels` casts pixels to float; normalisation, temperature and softmax
    are in the graph. fp16 stores weights in half precision, and lets the runtime compute in it where the CPU can.
    """

    name = "ncnn"
    suffix = ".ncnn.param"
    companions = (".bin", ".json")
    precisions = ("fp32", "fp16")
    packages = ("ncnn", "pnnx")
    extra = "ncnn"
    reasons = {  # noqa: RUF012
        "int8": "ncnn makes int8 with a program that is not in its Python package: take format=onnx or openvino",
        "bf16": "ncnn files hold fp32 or fp16 weights: take precision=fp16, or format=openvino",
    }

    def write(
        self,
        net: nn.Module,
        path: Path,
        card: Mapping[str, Any],
        *,
        precision: str = "fp32",
        temperature: float = 1.0,
        verify: Verify | None = None,
    ) -> Path:
        """Write the three files of a model; `path` is that of the layers (.ncnn.param)."""
        pnnx = self.require("pnnx", "format=ncnn")
        self.require("ncnn", "format=ncnn")
        size, model = image_size(card), card.get("model", {}).get("name", "this network")
        module = _FloatInput(deployable(net, size, temperature)).eval()
        with tempfile.TemporaryDirectory() as folder, converting(self.name, card):
            traced = Path(folder) / "net.pt"
            with torch.no_grad():
                torch.jit.trace(module, (module.example(),), check_trace=False).save(traced)
            command = [
                pnnx.EXEC_PATH,
                traced.name,
                f"inputshape=[1,3,{size},{size}]",
                f"fp16={int(precision == 'fp16')}",
            ]
            converted = [Path(folder) / "net.ncnn.param", Path(folder) / "net.ncnn.bin"]
            output = _run(command, folder)
            if not all(file.is_file() for file in converted):
                raise cannot_express(self.name, model, f"pnnx wrote no model: {_last_line(output)}")
            layers = _rename_ends(converted[0].read_text()).encode()
            weights = converted[1].read_bytes()
            converted[0].write_bytes(layers)
            script = [sys.executable, "-c", FIRST_RUN, *map(str, converted), str(size), str(len(card["classes"]))]
            if error := _run(script, folder, failures_only=True):
                raise cannot_express(self.name, model, first_line(error))
        described = describe_export(card, self.name, precision, temperature)
        described["exported"]["sha256"] = {".param": _digest(layers), ".bin": _digest(weights)}
        with verified_write(path, verify, self.companions) as draft:
            draft.write_bytes(layers)
            draft.with_suffix(".bin").write_bytes(weights)
            draft.with_suffix(".json").write_text(pack(described), encoding="utf-8")
        return path

    def load(self, path: Path, threads: int | None = 1, options: Mapping[str, Any] | None = None) -> "NcnnPredictor":
        """Open a model in ncnn."""
        return NcnnPredictor(path, threads, options)

    def annotate(self, path: Path, values: Mapping[str, Any]) -> None:
        """Add values to "exported" in the metadata beside a written file."""
        file = path.with_suffix(".json")
        file.write_text(pack(extend(unpack(read_file(file), path), values)), encoding="utf-8")


FORMAT = NcnnFormat()


class NcnnPredictor:
    """Run an ncnn model on the CPU, one image per call of the runtime.

    The SHA-256 of each file is checked before ncnn reads it, so damaged files and files of different exports are
    refused. This does not protect against malicious files: open only models from trusted sources.

    Args:
        path: The .ncnn.param file.
        threads: Threads of one call; None leaves them to the runtime.
        options: Attributes of `ncnn.Option`, e.g. {"use_winograd_convolution": False}.
    """

    def __init__(self, path: Path, threads: int | None = 1, options: Mapping[str, Any] | None = None) -> None:
        self.ncnn = FORMAT.require("ncnn", f"ckpt={path}")
        layers = read_file(path)
        for file in FORMAT.files(path)[1:]:
            if not file.is_file():
                raise DeploymentError(f"ckpt={path} needs {file.name} beside it: copy all three files")
        self.card = unpack(read_file(path.with_suffix(".json")), path)
        digests = {".param": _digest(layers), ".bin": _digest(read_file(path.with_suffix(".bin")))}
        if self.card["exported"].get("sha256") != digests:
            raise DeploymentError(
                f"ckpt={path} and the files beside it are from different exports: copy all three again"
            )
        self.size = int(self.card["preprocessing"]["size"])
        self.net = self.ncnn.Net()
        chosen: dict[str, Any] = {"use_vulkan_compute": False}
        if self.card["exported"].get("precision") != "fp16":
            chosen |= dict.fromkeys(("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"), False)
        chosen |= {} if threads is None else {"num_threads": threads}
        chosen |= dict(options or {})
        for name, value in chosen.items():
            _set_option(self.net.opt, name, value)
        version = self.ncnn.__version__
        if self.net.load_param(str(path)) or self.net.load_model(str(path.with_suffix(".bin"))):
            raise cannot_run(path, f"ncnn {version}", "this version lacks one of its layers")
        self.device = torch.device("cpu")
        self.details = {
            "runtime": "ncnn",
            "version": version,
            "runtime_threads": threads,
            "options": chosen,
            **file_details(self.card),
        }

    def __call__(self, images: np.ndarray | Tensor) -> Tensor:
        """Map images (B, S, S, 3) uint8 to probabilities (B, C) float32, on the CPU."""
        pixels = as_array(images)
        if pixels.shape[1:] != (self.size, self.size, 3) or pixels.dtype != np.uint8:
            raise ValueError(f"images are {pixels.dtype} {pixels.shape}: give uint8 (B, {self.size}, {self.size}, 3)")
        return torch.from_numpy(self.run(pixels))

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Map images (B, S, S, 3) uint8, contiguous, to probabilities (B, C) float32. Only the runtime is called."""
        return np.stack([self._probabilities(image) for image in pixels])

    def _probabilities(self, image: np.ndarray) -> np.ndarray:
        """Map an image (S, S, 3) uint8 to probabilities (C,) float32."""
        extractor = self.net.create_extractor()
        rgb = self.ncnn.Mat.PixelType.PIXEL_RGB
        extractor.input(INPUT, self.ncnn.Mat.from_pixels(image, rgb, self.size, self.size))
        status, output = extractor.extract(OUTPUT)
        if status:
            raise DeploymentError(f"ncnn {self.ncnn.__version__} cannot run this file: export it again")
        return np.array(output, dtype=np.float32).reshape(-1)


class _FloatInput(nn.Module):
    """Wrap a deployable network so that its input is float32, (1, 3, S, S) in [0, 255]."""

    def __init__(self, module: Deployable) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels: Tensor) -> Tensor:
        """Map an image (1, 3, S, S) float32 in [0, 255] to probabilities (1, C) float32."""
        return self.module.classify(pixels)

    def example(self) -> Tensor:
        """Return a random image to trace the module with, (1, 3, S, S) float32."""
        return self.module.example(1).permute(0, 3, 1, 2).float().contiguous()


def _run(command: list[str], folder: str, failures_only: bool = False) -> str:
    """Run a program in a folder, and return its output and errors; "" if it succeeds and `failures_only` is set."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    text = (done.stderr + done.stdout).decode(errors="replace").strip()
    if failures_only:
        return "" if done.returncode == 0 else text or f"it ended with status {done.returncode}"
    return text


def _last_line(text: str) -> str:
    return " ".join(text.splitlines()[-1:])[:200] or "no output"


def _rename_ends(layers: str) -> str:
    """Give the input and output of a .param text (in0, out0) the names that all formats use."""
    names = {"in0": INPUT, "out0": OUTPUT}
    lines = layers.splitlines()
    # Magic number; counts of layers and blobs; then one layer per line: type, name, blobs in, blobs out, their names.
    for place, line in enumerate(lines[2:], 2):
        fields = line.split()
        blobs = int(fields[2]) + int(fields[3])
        fields[4 : 4 + blobs] = [names.get(field, field) for field in fields[4 : 4 + blobs]]
        lines[place] = " ".join(fields)
    return "\n".join(lines) + "\n"


def _set_option(settings: Any, name: str, value: Any) -> None:
    """Set an attribute of `ncnn.Option`."""
    if not hasattr(settings, name):
        raise invalid_option(name, value, "ncnn", "leave it out")
    try:
        setattr(settings, name, value)
    except TypeError as error:
        kind = type(getattr(settings, name)).__name__
        raise invalid_option(name, value, "ncnn", f"give a value of type {kind}") from error


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
