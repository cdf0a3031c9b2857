"""What an entry point says to the loggers: the config first, the results last."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from callbacks.wandb_logger import Wandb


def find_run(loggers: Iterable[Logger]) -> Any | None:
    """Return the `wandb.Run` behind the loggers, or None where there is none (or on another rank than 0)."""
    if getattr(rank_zero_only, "rank", 0) > 0:
        return None
    return next((logger.experiment for logger in loggers if isinstance(logger, Wandb)), None)


def log_config(loggers: Iterable[Logger], config: dict[str, Any]) -> None:
    """Give every logger the resolved, plain config of the run."""
    for logger in loggers:
        logger.log_hyperparams(config)


def log_results(loggers: Iterable[Logger], results: Mapping[str, Any]) -> None:
    """Put a run's results (`metrics.json`) into the W&B summary, where tables and parallel coordinates read them.

    Args:
        loggers: The trainer's loggers.
        results: Flat; numbers, strings and flags are taken, anything else and NaN left out.
    """
    run = find_run(loggers)
    if run is None:
        return
    plain = {key: value for key, value in results.items() if isinstance(value, str | int | float | bool)}
    run.summary.update({key: value for key, value in plain.items() if isinstance(value, str) or math.isfinite(value)})


def finish(loggers: Iterable[Logger], failed: bool = False) -> None:
    """Close W&B runs and print how to upload those that were offline; call it last."""
    for logger in loggers:
        if isinstance(logger, Wandb):
            logger.finish(failed)
