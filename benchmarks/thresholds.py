"""How often a rejection threshold reaches its target accuracy on images that it was not chosen on.

    python benchmarks/thresholds.py RUN/best.ckpt
    python benchmarks/thresholds.py RUN/exported/model-int8.onnx --target 0.9

The validation and test images of a run, which are not training images, are predicted once and pooled. The pool is
halved at random 1,000 times: the threshold is chosen on one half and evaluated on the other. This test is harder than
new images: if the first half is easier than the pool, the second half is more difficult by the same amount.

Each row is one rule. A rule takes the lowest confidence at which a lower bound of the accuracy, at the given confidence
level, reaches the target. "none" uses the accuracy itself. The default of litesort is target_confidence=0.975.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from deployment.predictors import predict_split
from litesort.cli.build import load_data
from litesort.cli.paths import CONF
from litesort.cli.quoting import quote_overrides
from reports.rejection import choose_threshold, evaluate_threshold

sys.path.insert(0, str(Path(__file__).parents[1]))  # evaluate.py is not in an installed package
from evaluate import open_artifact

CONFIDENCES = (0.5, 0.8, 0.9, 0.95, 0.975, 0.99)


class RuleResult(NamedTuple):
    """Result of a rule over the resamplings.

    Attributes:
        given: Share of the resamplings in which a threshold exists and keeps images, in [0, 1].
        missed: Share of the resamplings in which the accuracy on the second half is below the target, in [0, 1].
        coverage: Mean share of images that are kept, in [0, 1]; 0 without a threshold.
        accuracy: Mean accuracy of the kept images, in [0, 1]; NaN if there is never a threshold.
    """

    given: float
    missed: float
    coverage: float
    accuracy: float


def resample(
    probabilities: np.ndarray, targets: np.ndarray, target: float, confidence: float | None, count: int
) -> RuleResult:
    """Choose a threshold on a random half of the images and evaluate it on the other half, `count` times.

    Args:
        probabilities: (N, C) float in [0, 1].
        targets: (N,) int, true classes.
        target: Target accuracy, in (0, 1).
        confidence: Confidence of the lower bound; None takes the accuracy itself.
        count: Number of resamplings.
    """
    coverage, accuracy = [], []
    for seed in range(count):
        order = np.random.default_rng(seed).permutation(len(targets))
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        if confidence is None:
            value = _by_accuracy(probabilities[first], targets[first], target)
        else:
            value = choose_threshold(probabilities[first], targets[first], target, confidence).value
        evaluated = evaluate_threshold(probabilities[second], targets[second], value)
        coverage.append(evaluated.get("coverage", 0.0))
        if evaluated and evaluated["coverage"] > 0:
            accuracy.append(evaluated["kept_accuracy"])
    missed = sum(value < target for value in accuracy) / count
    mean = float(np.mean(accuracy)) if accuracy else float("nan")
    return RuleResult(len(accuracy) / count, missed, float(np.mean(coverage)), mean)


def _by_accuracy(probabilities: np.ndarray, targets: np.ndarray, target: float) -> float | None:
    """Lowest confidence at which the accuracy itself reaches the target."""
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == targets
    order = np.argsort(-confidence)
    good = np.flatnonzero(np.cumsum(correct[order]) / np.arange(1, len(order) + 1) >= target)
    return float(confidence[order[good[-1]]]) if len(good) else None


def pool(ckpt: str, overrides: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Predict the validation and test images of a run; returns probabilities (N, C) and targets (N,)."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = quote_overrides([f"ckpt={ckpt}", f"run_dir={folder}", *overrides], texts=("ckpt", "run_dir"))
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("evaluate", overrides=list(arguments))
        artifact: Any = open_artifact(cfg.ckpt, cfg)
        data, _, _ = load_data(artifact.card, cfg)
        parts = [predict_split(artifact.predict, data, split) for split in ("val", "test")]
    return np.concatenate([part.probabilities for part in parts]), np.concatenate([part.targets for part in parts])


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt", help="best.ckpt of a run, or a file of export.py")
    parser.add_argument("overrides", nargs="*", help="settings of evaluate.py, e.g. data.root=photos")
    parser.add_argument("--target", type=float, nargs="+", default=[0.95, 0.9], help="target accuracies")
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args(arguments)
    probabilities, targets = pool(options.ckpt, options.overrides)
    correct = (probabilities.argmax(1) == targets).mean()
    table = Table(
        title=f"{options.resamples} halvings of {len(targets)} images, {correct:.1%} of them correct",
        title_justify="left",
    )
    for column in ("target", "bound", "threshold given", "kept", "correct", "target missed", "target reached"):
        table.add_column(column, justify="right")
    for target in options.target:
        for confidence in (None, *CONFIDENCES):
            found = resample(probabilities, targets, target, confidence, options.resamples)
            table.add_row(
                f"{target:.0%}",
                "none" if confidence is None else f"{confidence:g}",
                *(f"{value:.1%}" for value in (found.given, found.coverage, found.accuracy)),
                f"{found.missed:.1%}",
                f"{1 - found.missed:.1%}",
            )
        table.add_section()
    (console or Console(width=100)).print(table)


if __name__ == "__main__":
    main()
