"""A score of macro F1 and time; lower is better."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from litesort.errors import DeploymentError

CLOCKS: dict[str, str] = {"relative": "model", "end_to_end": "end_to_end"}


class Score:
    """Combine macro F1 and time: `0.5 * time / base_time + sigmoid(steepness * (base_f1 - f1))`; lower is better.

    The formula and its constants are fitted to a published leaderboard, where `time` is the end-to-end time of 5,217
    images in seconds. Seconds differ between machines, so `time="relative"` uses seconds of the published reference:
    `reference_time * time(model) / time(reference)`, both measured in one run.

    Args:
        name: Name of the score in reports.
        time: "relative" (model clock, relative to the reference) or "end_to_end" (seconds for `images` images).
        base_time: Seconds that add 0.5 to the score.
        base_f1: Macro F1, in [0, 1], at which the sigmoid is 0.5.
        steepness: Steepness of the sigmoid, above 0.
        images: Number of images of the published test set.
        reference: Model name of the reference.
        reference_size: Image size of the reference in pixels. It does not depend on the candidate.
        reference_time: Published seconds of the reference.

    Raises:
        DeploymentError: A parameter is out of its range.

    Example:
        >>> round(Score()(f1=0.7478, seconds=61.2576), 3)
        0.987
    """

    def __init__(
        self,
        name: str = "relative",
        time: Literal["relative", "end_to_end"] = "relative",
        base_time: float = 43.16,
        base_f1: float = 0.70,
        steepness: float = 20.0,
        images: int = 5217,
        reference: str = "resnet18d",
        reference_size: int = 224,
        reference_time: float = 61.26,
    ) -> None:
        if time not in CLOCKS:
            raise DeploymentError(f"score.time={time} is unknown: choose one of {', '.join(CLOCKS)}")
        positive = {
            "base_time": base_time,
            "steepness": steepness,
            "images": images,
            "reference_size": reference_size,
            "reference_time": reference_time,
        }
        for key, value in positive.items():
            if not (math.isfinite(value) and value > 0):
                raise DeploymentError(f"score.{key}={value} is invalid: expected a number above 0")
        _check_f1(base_f1, "score.base_f1")
        self.name, self.time, self.clock = name, time, CLOCKS[time]
        self.base_time, self.base_f1, self.steepness, self.images = base_time, base_f1, steepness, images
        self.reference, self.reference_size, self.reference_time = reference, reference_size, reference_time

    def __call__(self, f1: float, seconds: float) -> float:
        """Compute the score.

        Args:
            f1: Macro F1, in [0, 1].
            seconds: Time in seconds, above 0; see `seconds`.

        Raises:
            DeploymentError: A value is out of its range.
        """
        _check_f1(f1, "f1")
        if not (math.isfinite(seconds) and seconds > 0):
            raise DeploymentError(f"seconds={seconds} is invalid: expected a measured time above 0")
        return 0.5 * seconds / self.base_time + _sigmoid(self.steepness * (self.base_f1 - f1))

    @property
    def parameters(self) -> dict[str, Any]:
        """All values that the score depends on besides macro F1 and time. Scores are comparable if these are equal."""
        names = (
            "time",
            "base_time",
            "base_f1",
            "steepness",
            "images",
            "reference",
            "reference_size",
            "reference_time",
        )
        return {name: getattr(self, name) for name in names}

    def explain(self, f1: float, seconds: float) -> str:
        """Return the score with its formula filled in, in one line."""
        total = self(f1, seconds)
        return (
            f"score {total:.4f} = 0.5*{seconds:.4g}/{self.base_time:g} + "
            f"sigmoid({self.steepness:g}*({self.base_f1:g}-{f1:.4f}))"
        )

    def seconds(self, entry: Mapping[str, Any]) -> float:
        """Return the time of a latency entry in seconds of the score; see `deployment.latency.timer.measure`.

        Raises:
            DeploymentError: The time is relative, and the entry has no ratio to a reference.
        """
        if self.time == "end_to_end":
            return float(entry["ms_per_image"]) * self.images / 1000
        if entry.get("ratio") is None:
            raise DeploymentError("score.time=relative needs a reference: measure the model together with one")
        return self.reference_time * float(entry["ratio"])

    def check(self, batches: Sequence[int], end_to_end: bool) -> None:
        """Raise DeploymentError if the benchmark will not measure the time that this score uses."""
        if 1 not in batches:
            raise DeploymentError(f"latency.batches={list(batches)} lacks 1, which score={self.name} uses: add it")
        if self.clock == "end_to_end" and not end_to_end:
            raise DeploymentError(f"latency.end_to_end=false, but score={self.name} uses that time: leave it true")

    def compute(
        self, f1: float, latency: Sequence[Mapping[str, Any]], model: str = "model", val_f1: float | None = None
    ) -> dict[str, Any]:
        """Compute the score of one model from its macro F1 and its latency records, as keys of metrics.json.

        Args:
            f1: Macro F1 in [0, 1].
            latency: Records of `deployment.latency.timer`. The record with the clock of this score and batch 1 is used.
            model: Name of the entry.
            val_f1: Macro F1 on the validation images, if it is known.

        Returns:
            `score`, `score_name`, `score_parameters`, `score_seconds`, `score_explained`, and with `val_f1` its score,
            `val/score`.

        Raises:
            DeploymentError: There is no such record or entry, or a value is out of its range.
        """
        for record in latency:
            if record["clock"] == self.clock and record["batch"] == 1 and model in record["entries"]:
                seconds = self.seconds(record["entries"][model])
                val = {} if val_f1 is None or math.isnan(val_f1) else {"val/score": self(val_f1, seconds)}
                return val | {
                    "score": self(f1, seconds),
                    "score_name": self.name,
                    "score_parameters": self.parameters,
                    "score_seconds": seconds,
                    "score_explained": self.explain(f1, seconds),
                }
        raise DeploymentError(
            f"score={self.name} needs the time of {model!r} on the {self.clock} clock at batch 1: measure that too"
        )


def _check_f1(f1: float, key: str) -> None:
    if not 0 <= f1 <= 1:  # also false for NaN
        raise DeploymentError(f"{key}={f1} is invalid: expected a macro F1 between 0 and 1")


def _sigmoid(x: float) -> float:
    # The exponent is never positive, so that exp does not overflow.
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
