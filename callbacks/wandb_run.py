"""What an entry point says to the loggers: the config first, the results last."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from callbacks.wandb_logger import Wandb
from reports.rows import newest_export


def find_run(loggers: Iterable[Logger]) -> Any | None:
    """Return the `wandb.Run` behind the loggers, or None where there is none (or on another rank than 0)."""
    if getattr(rank_zero_only, "rank", 0) > 0:
        return None
    return next((logger.experiment for logger in loggers if isinstance(logger, Wandb)), None)


def log_config(loggers: Iterable[Logger], config: dict[str, Any]) -> None:
    """Give every logger the resolved, plain config of the run, flat: panels want `model/name`, not a tree."""
    for logger in loggers:
        logger.log_hyperparams(flat(config))


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One level of keys, joined by slashes as metrics are: W&B would take a dot in a key for a level of its own.

    Example:
        >>> flat({"model": {"name": "resnet18", "kwargs": {}}, "tags": ["a"]})
        {'model/name': 'resnet18', 'tags': ['a']}
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def log_results(loggers: Iterable[Logger], results: Mapping[str, Any], checkpoint: str | Path | None = None) -> None:
    """Put a run's results (`metrics.json`) where tables read them: W&B's summary, metrics of TensorBoard and MLflow.

    Args:
        loggers: The trainer's loggers.
        results: Flat; numbers, strings and flags are taken, anything else and NaN left out.
        checkpoint: best.ckpt, for loggers that keep models: see `log_models`.
    """
    if checkpoint is not None:
        log_models(loggers, Path(checkpoint), results)
    known = _known(results)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger | MLFlowLogger):
            numbers = {k: float(v) for k, v in known.items() if not isinstance(v, str | bool)}
            logger.log_metrics({k: v for k, v in numbers.items() if k not in ("seed", "size")})
    run = find_run(loggers)
    if run is not None:
        run.summary.update(known)


def log_models(loggers: Iterable[Logger], checkpoint: Path, results: Mapping[str, Any]) -> None:
    """Keep the checkpoint, and what was exported beside it, as W&B artefacts with the alias "best"; offline too.

    Nothing happens without `logger.wandb.log_model`. Artefacts are called `<run id>-checkpoint` (type "model") and
    `<run id>-exported` (type "exported model"); their metadata are the run's results.

    Args:
        loggers: The trainer's loggers.
        checkpoint: best.ckpt; exported files are those of the latest export beside it.
        results: As in `log_results`.
    """
    logger = next((logger for logger in loggers if isinstance(logger, Wandb)), None)
    run = find_run(loggers) if logger is not None and logger.keeps_model else None
    if run is None:
        return
    import wandb

    parts = {"checkpoint": ("model", checkpoint), "exported": ("exported model", newest_export(checkpoint.parent))}
    for name, (kind, path) in parts.items():
        if not path.exists():
            continue
        artefact = wandb.Artifact(f"{run.id}-{name}", type=kind, metadata=_known(results))
        if path.is_dir():
            artefact.add_dir(str(path))
        else:
            artefact.add_file(str(path))
        run.log_artifact(artefact, aliases=["best"])


def finish(loggers: Iterable[Logger], failed: bool = False) -> None:
    """Close W&B runs and print how to upload those that were offline; call it last."""
    for logger in loggers:
        if isinstance(logger, Wandb):
            logger.finish(failed)


def _known(results: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in results.items() if isinstance(value, str | int | float | bool)}
    return {key: value for key, value in plain.items() if isinstance(value, str) or math.isfinite(value)}
