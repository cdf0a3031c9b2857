"""Latency benchmark: times candidates and references in turn, in one run."""

import logging
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from deployment.formats import FORMATS, Predictor, get_format
from deployment.latency.candidates import (
    Candidate,
    Pipeline,
    ReferenceTimes,
    end_to_end_clock,
    model_clock,
    predictor_candidate,
    predictor_pipeline,
    torch_candidate,
    torch_pipeline,
)
from deployment.latency.reference import Reference, runtime_of, write_network
from deployment.latency.timer import Settings
from litesort.errors import DeploymentError

log = logging.getLogger(__name__)

EAGER = "eager"
MODEL = "model"  # name of an evaluated artifact in the records
# Times of the references that this process has measured. The jobs of a sweep measure a reference in full only once.
_REFERENCE_TIMES: dict[tuple[Any, ...], ReferenceTimes] = defaultdict(lambda: defaultdict(dict))


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """Times of candidates and of references, measured in one run.

    Attributes:
        records: One record per clock and batch size, as `deployment.latency.timer.measure` returns it.
        reference: Network and image size of the reference, e.g. "resnet18d 224 px".
        runtimes: Name of a candidate -> "eager", or the format of its file.
    """

    records: list[dict[str, Any]]
    reference: str
    runtimes: Mapping[str, str]

    def row(self, name: str = MODEL) -> dict[str, Any]:
        """Return the times of a candidate at batch 1 as keys of metrics.json; see docs/reference/metrics.md."""
        record = self._record("model")
        entry = record["entries"][name]
        end_to_end = self._record("end_to_end")
        ratios = [f"{key}{end}" for key in ("ratio", "ratio_same_runtime") for end in ("", "_low", "_high")]
        return {
            "latency_ms": entry["median_ms"],
            "latency_ms_low": entry["low_ms"],
            "latency_ms_high": entry["high_ms"],
            "latency_p90_ms": entry["p90_ms"],
            "end_to_end_ms": end_to_end["entries"][name]["median_ms"] if end_to_end else None,
            **{key: entry[key] for key in ratios},
            "unsteady": entry["unsteady"],
            "runtime": self.runtimes[name],
            "threads": record["threads"],
            "reference": self.reference,
            "machine": record["machine"],
        }

    def _record(self, clock: str) -> dict[str, Any]:
        """Return the record of a clock at batch 1, otherwise at the first batch size; {} if there is none."""
        found = [record for record in self.records if record["clock"] == clock]
        return next((record for record in found if record["batch"] == 1), found[0] if found else {})


class LatencyBenchmark:
    """Time candidates and a reference in turn, in one run.

    Args:
        device: Device of the networks, e.g. "cpu" or "cuda:0".
        batches: Batch sizes, images per call. A score needs 1.
        end_to_end: Whether the time from file to class is measured too.
        images: Number of files that the end-to-end clock cycles through.
        settings: Length of a measurement, threads.

    Raises:
        DeploymentError: A setting is out of range, or the device is not available.
    """

    def __init__(
        self,
        device: str = "cpu",
        batches: Sequence[int] = (1,),
        end_to_end: bool = True,
        images: int = 64,
        settings: Settings | None = None,
    ) -> None:
        if not batches or min(batches) < 1:
            raise DeploymentError(f"latency.batches={list(batches)} is invalid: expected batch sizes of 1 or more")
        if images < 1:
            raise DeploymentError(f"latency.images={images} is invalid: expected 1 or more")
        try:
            available = torch.device(device).type != "cuda" or torch.cuda.is_available()
        except RuntimeError as error:
            raise DeploymentError(f"latency.device={device} is not a device: give cpu or cuda:0") from error
        if not available:
            raise DeploymentError(f"latency.device={device} is not available: no CUDA device was found, give cpu")
        self.device, self.batches, self.end_to_end, self.images = device, list(batches), end_to_end, images
        self.settings = settings or Settings()

    def measure(
        self,
        models: Mapping[str, tuple[nn.Module | Predictor, int]],
        reference: Reference,
        reader: Callable[[int], Callable[[Path], np.ndarray]],
        files: Sequence[Path],
    ) -> LatencyReport:
        """Time models and the references, round by round, with a progress bar.

        The eager reference is always timed. For exported files, the reference is also timed as an fp32 file of the
        same format, with the same number of threads.

        Args:
            models: Name -> model and image size S in pixels. A model is a network, (B, 3, S, S) float32 in [0, 1] ->
                logits (B, C), or the predictor of an exported file, (B, S, S, 3) uint8 -> probabilities (B, C).
                A predictor has its own number of threads.
            reference: The reference. Networks are moved to `device` and to channels_last.
            reader: Maps S to a function that reads a file as (S, S, 3) uint8.
            files: Images for the end-to-end clock.

        Returns:
            Records with an entry for each model. Records of the model clock also have entries for the references.

        Raises:
            DeploymentError: A file does not run on the device of the eager reference.
        """
        from rich.console import Console
        from rich.progress import Progress

        self._check_devices({name: model for name, (model, _) in models.items()})
        for model, _ in models.values():
            if isinstance(model, nn.Module):
                model.to(self.device).to(memory_format=torch.channels_last)
        console = Console(stderr=True)
        # The bar is drawn between rounds, because a drawing thread would disturb the measurement.
        with Progress(transient=True, auto_refresh=False, console=console, disable=not console.is_terminal) as bar:

            def progress_of(clock: str) -> Callable[[float], None]:
                task = bar.add_task(f"timing {clock}", total=1)

                def update(share: float) -> None:
                    bar.update(task, completed=share)
                    bar.refresh()

                update(0)
                return update

            progress = progress_of("the model" if len(models) == 1 else f"{len(models)} models")
            records = self._model_clock(models, reference, progress)
            if self.end_to_end:
                pipelines = {key: _pipeline(model, reader(px)) for key, (model, px) in models.items()}
                common: Any = {
                    "batches": self.batches,
                    "settings": self.settings,
                    "progress": progress_of("file to class"),
                }
                records += end_to_end_clock(pipelines, files[: self.images], **common)
        runtimes = {name: runtime_of(model) for name, (model, _) in models.items()}
        return LatencyReport(records, str(reference), runtimes)

    def _model_clock(
        self,
        models: Mapping[str, tuple[nn.Module | Predictor, int]],
        reference: Reference,
        progress: Callable[[float], None],
    ) -> list[dict[str, Any]]:
        references = self._exported_references(reference, [model for model, _ in models.values()])
        names = {kind: f"{reference.name} {kind}" for kind in references} | {EAGER: reference.name}
        candidates = {
            name: replace(_candidate(model, px), same_runtime=names.get(runtime_of(model)))
            for name, (model, px) in models.items()
        }
        candidates |= {names[kind]: candidate for kind, candidate in references.items()}
        candidates[reference.name] = reference.eager(self.device)
        depends_on = (str(reference), self.device, self.settings.threads, *sorted(candidates.keys() - models.keys()))
        return model_clock(
            candidates,
            reference=reference.name,
            batches=self.batches,
            reference_times=_REFERENCE_TIMES[depends_on],
            settings=self.settings,
            progress=progress,
        )

    def _exported_references(
        self, reference: Reference, models: Sequence[nn.Module | Predictor]
    ) -> dict[str, Candidate]:
        """Return the exported reference by format of the models. A format that cannot express it is left out."""
        found: dict[str, Candidate] = {}
        for model in models:
            kind = runtime_of(model)
            if isinstance(model, nn.Module) or kind in found or kind not in FORMATS:
                continue
            used = model.details.get("options") or {}
            device = {key: used[key] for key in ("device", "providers") if key in used}
            threads = model.details.get("runtime_threads", self.settings.threads)
            try:
                found[kind] = reference.exported(kind, threads, device)
            except DeploymentError as error:
                log.warning("ratio_same_runtime is left out for %s: %s", kind, error)
        return found

    def _check_devices(self, models: Mapping[str, nn.Module | Predictor]) -> None:
        kind = torch.device(self.device).type
        for name, model in models.items():
            runs_on = kind if isinstance(model, nn.Module) else str(model.details.get("runs_on", "cpu"))
            if runs_on != kind:
                hint = f"give latency.device={runs_on}" if runs_on in ("cpu", "cuda") else "give runtime.device=CPU"
                raise DeploymentError(
                    f"latency.device={self.device} is not the device of {'the file' if name == MODEL else name}, which "
                    f"runs on {runs_on}: a ratio needs the reference on the same device, {hint}"
                )


def _candidate(model: nn.Module | Predictor, size: int) -> Candidate:
    return torch_candidate(model, size) if isinstance(model, nn.Module) else predictor_candidate(model, size)


def _pipeline(model: nn.Module | Predictor, prepare: Callable[[Path], np.ndarray]) -> Pipeline:
    return torch_pipeline(model, prepare) if isinstance(model, nn.Module) else predictor_pipeline(model, prepare)


class Times(NamedTuple):
    """Time of one image through a network and through a reference.

    Attributes:
        ratio: Median over rounds of the network's time divided by the reference's. Below 1, the network is faster.
        net: Median time of the network in ms.
        reference: Median time of the reference in ms.
    """

    ratio: float
    net: float
    reference: float


Clock = Callable[[nn.Module, nn.Module, int], Times]


def build_clock(runtime: str) -> Clock:
    """Return a function that times one image through two networks in turn.

    Args:
        runtime: Name of a format, e.g. "openvino", to which both networks are exported; or "eager" for PyTorch.

    Returns:
        A function of the network, the reference and the image size in px; it returns their times.

    Raises:
        DeploymentError: The runtime is unknown, or its packages are missing.
    """
    if runtime == EAGER:
        return time_eager
    if runtime not in FORMATS:
        raise DeploymentError(f"prune.runtime={runtime} is unknown: give one of {', '.join([*FORMATS, EAGER])}")
    get_format(runtime).check_packages("fp32")

    def clock(net: nn.Module, reference: nn.Module, size: int) -> Times:
        with tempfile.TemporaryDirectory() as folder:
            nets = {"net": net, "reference": reference}
            return _times({name: _exported(part, Path(folder) / name, runtime, size) for name, part in nets.items()})

    return clock


def time_eager(net: nn.Module, reference: nn.Module, size: int, settings: Settings | None = None) -> Times:
    """Time one image through `net` and through `reference` in turn, in eager PyTorch, on their own devices.

    Args:
        net: (B, 3, size, size) float in [0, 1] -> logits (B, C).
        reference: The network to compare with, of the same shapes.
        size: Image size, px.
        settings: Length of the measurement; None for half a second per network.

    Returns:
        The times and their ratio.
    """
    return _times({"net": torch_candidate(net, size), "reference": torch_candidate(reference, size)}, settings)


def _exported(net: nn.Module, stem: Path, runtime: str, size: int) -> Candidate:
    """Export a network and open it in a runtime."""
    export_format = FORMATS[runtime]
    path = stem.with_name(f"{stem.name}{export_format.suffix}")
    return predictor_candidate(export_format.load(write_network(net, path, export_format, size)), size)


def _times(candidates: dict[str, Candidate], settings: Settings | None = None) -> Times:
    settings = settings or Settings(seconds=0.5)
    (record,) = model_clock(candidates, reference="reference", batches=[1], settings=settings)
    entries = record["entries"]
    return Times(entries["net"]["ratio"], entries["net"]["median_ms"], entries["reference"]["median_ms"])
