"""Results of one evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployment.latency.benchmark import LatencyReport
from deployment.predictors import Artifact
from litesort.system import versions


@dataclass(frozen=True, slots=True)
class Results:
    """Results of one evaluation; `asdict` gives the content of metrics.json.

    Attributes:
        artifact: The evaluated checkpoint or exported file.
        run_info: Name, data, seed and further values of the run.
        split: Name of the split.
        images: Number of images.
        size: Image size, px.
        metrics: Metrics of the predictions: "f1_macro", "f1/<class>", ...
        rejection: "threshold", "threshold_target" and "threshold_note".
        cost: "params", "macs" and "bytes".
        latency: Times of the artifact and of the reference.
        score: "score" and how it was computed.
    """

    artifact: Artifact
    run_info: Mapping[str, Any]
    split: str
    images: int
    size: int
    metrics: Mapping[str, float]
    rejection: Mapping[str, Any]
    cost: Mapping[str, Any]
    latency: LatencyReport
    score: Mapping[str, Any]

    def asdict(self) -> dict[str, Any]:
        """Return one flat mapping. Keys of metrics begin with the split, or "test" for images from outside the run."""
        card = self.artifact.card
        stage = {"unseen": "test"}.get(self.split, self.split)
        return {
            "status": "completed",
            "error": None,
            **self.run_info,
            "ckpt": str(self.artifact.path),
            "split": self.split,
            "images": self.images,
            "model": card["model"]["name"],
            "origin": card["origin"],
            "size": self.size,
            "classes": card["classes"],
            **{f"{stage}/{key}": value for key, value in self.metrics.items()},
            **self.rejection,
            **self.cost,
            **self.score,
            **self.latency.row(),
            "latency": self.latency.records,
            "versions": versions(),
        }
