"""Weights & Biases: the logger, and functions that log the config, results and models of a run."""

import math
import netrc
import os
import secrets
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from reports.results import newest_export, one_line

DATA_DIR = "WANDB_DATA_DIR"
HOSTS = ("https://api.wandb.ai", "https://api.forge.coreweave.com")  # URLs of the public server, the older first


class Wandb(WandbLogger):
    """Lightning's W&B logger with automatic offline mode. All of its files stay in the run folder.

    Args:
        save_dir: The run folder; W&B writes to `wandb/` in it.
        project: Project on the server.
        entity: User or team; None for the default of the API key.
        name: Display name of the run.
        group: Name that groups runs; None for the name of the sweep folder in a sweep, otherwise no group.
        job_type: "train", "evaluate", ...
        tags: Tags for filtering.
        notes: Description of the run.
        offline: True or False. "auto" is offline without an API key (`WANDB_API_KEY`, netrc), or if `WANDB_MODE` is
            set to another mode than "online".
        init_timeout: Seconds to wait for the server; after that the run continues offline.
        log_model: Log the best checkpoint and its exported files as artifacts. "all" also logs every other checkpoint
            when it is written, if the run is online.
    """

    def __init__(
        self,
        save_dir: str,
        project: str = "litesort",
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        job_type: str = "train",
        tags: Sequence[str] = (),
        notes: str = "",
        offline: bool | Literal["auto"] = "auto",
        init_timeout: float = 20.0,
        log_model: bool | Literal["all"] = False,
    ) -> None:
        works_offline = not can_be_online() if offline == "auto" else offline
        super().__init__(
            name=name,
            save_dir=save_dir,
            project=project,
            log_model="all" if log_model == "all" and not works_offline else False,
            entity=entity,
            group=group or os.environ.get("WANDB_RUN_GROUP"),
            job_type=job_type,
            tags=list(tags),
            notes=notes,
        )
        del self._wandb_init["anonymous"]  # W&B removed this argument and warns about it, even for None
        self.works_offline = works_offline
        self.logs_model = bool(log_model)
        self.init_timeout = init_timeout

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `wandb.Run`, started on first use."""
        if self._experiment is None:
            self._experiment = self._start()
        return self._experiment

    def finish(self, failed: bool = False) -> None:
        """Close the run. For an offline run, print the command that uploads it."""
        if self._experiment is None:
            return
        folder = Path(self._experiment.dir).parent
        self._experiment.finish(exit_code=int(failed))
        self._experiment = None
        os.environ.pop(DATA_DIR, None)
        if self.works_offline:
            print(f"W&B ran offline; upload this run with: wandb sync {folder}")

    def _start(self) -> Any:
        import wandb

        assert self._save_dir is not None
        folder = Path(self._save_dir).resolve()
        (folder / "wandb").mkdir(parents=True, exist_ok=True)
        # Tables stage their images in this folder; the default is the user's home.
        os.environ[DATA_DIR] = str(folder / "wandb")
        if wandb.run is not None:
            wandb.finish()  # a failed run in this process may have left it open
        id_file = folder / "wandb" / "id"  # a resumed run continues its curves
        self._id = self._id or (id_file.read_text() if id_file.exists() else secrets.token_hex(4))
        id_file.write_text(self._id)
        self._wandb_init["id"] = self._id
        if not self.works_offline:
            try:
                check_reachable()  # wandb.init itself retries for longer than init_timeout
                return self._init("online")
            except (OSError, wandb.Error) as error:
                reason = one_line(error, 120)
                print(f"W&B is not reachable ({reason}); the run continues offline", file=sys.stderr)
                if not isinstance(error, OSError):
                    wandb.teardown()  # releases the run id of the failed attempt
                self.works_offline, self._log_model = True, False
        return self._init("disabled" if os.environ.get("WANDB_MODE") == "disabled" else "offline")

    def _init(self, mode: Literal["online", "offline", "disabled"]) -> Any:
        import wandb

        settings = wandb.Settings(
            init_timeout=self.init_timeout,
            silent=mode != "online",  # online, W&B prints the link to the run
            console="off",  # capturing stdout breaks progress bars
            x_disable_stats=True,  # its sampling process competes with training for CPU cores
        )
        run = wandb.init(**{**self._wandb_init, "mode": mode, "settings": settings})
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return run


def check_reachable(timeout: float = 5.0) -> None:
    """Check that the W&B server accepts connections; behind a proxy nothing is checked.

    Raises:
        OSError: The server is not reachable within `timeout` seconds.
    """
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or HOSTS[0])
    if not getproxies().get(server.scheme):
        port = server.port or (443 if server.scheme == "https" else 80)
        socket.create_connection((str(server.hostname), port), timeout).close()


def can_be_online() -> bool:
    """Return whether W&B has an API key and `WANDB_MODE` allows online runs. Nothing is sent."""
    return os.environ.get("WANDB_MODE", "online") == "online" and has_api_key()


def has_api_key() -> bool:
    """Return whether the environment or netrc has an API key of the W&B server."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    servers = [os.environ["WANDB_BASE_URL"]] if os.environ.get("WANDB_BASE_URL") else HOSTS
    for place in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        if place and (path := Path(place).expanduser()).is_file():
            try:
                entries = netrc.netrc(path)
            except (netrc.NetrcParseError, OSError):
                continue
            return any(entries.authenticators(urlsplit(server).netloc) for server in servers)
    return False


def find_run(loggers: Iterable[Logger]) -> Any | None:
    """Return the `wandb.Run` of the loggers. Without one, and on ranks other than 0, return None."""
    if getattr(rank_zero_only, "rank", 0) > 0:
        return None
    return next((logger.experiment for logger in loggers if isinstance(logger, Wandb)), None)


def log_config(loggers: Iterable[Logger], config: dict[str, Any]) -> None:
    """Log the resolved, plain config of the run to every logger, with flat keys such as `model/name`."""
    for logger in loggers:
        logger.log_hyperparams(flat(config))


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a config; keys are joined by slashes, because W&B splits keys at dots.

    Example:
        >>> flat({"model": {"name": "resnet18", "kwargs": {}}, "tags": ["a"]})
        {'model/name': 'resnet18', 'tags': ['a']}
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def log_results(loggers: Iterable[Logger], results: Mapping[str, Any], checkpoint: str | Path | None = None) -> None:
    """Log results of a run (`metrics.json`): as the summary in W&B, as metrics in TensorBoard and MLflow.

    Args:
        loggers: Loggers of the trainer.
        results: Flat mapping. Numbers, strings and flags are logged; NaN and other values are omitted.
        checkpoint: best.ckpt, for loggers that store models; see `log_models`.
    """
    if checkpoint is not None:
        log_models(loggers, Path(checkpoint), results)
    known = _loggable(results)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger | MLFlowLogger):
            numbers = {k: float(v) for k, v in known.items() if not isinstance(v, str | bool)}
            logger.log_metrics({k: v for k, v in numbers.items() if k not in ("seed", "size")})
    run = find_run(loggers)
    if run is not None:
        run.summary.update(known)


def log_models(loggers: Iterable[Logger], checkpoint: Path, results: Mapping[str, Any]) -> None:
    """Log the checkpoint and its exported files as W&B artifacts with the alias "best", also offline.

    Without `logger.wandb.log_model` nothing is logged. Artifacts are called `<run id>-checkpoint` (type "model") and
    `<run id>-exported` (type "exported model"); their metadata are the results of the run.

    Args:
        loggers: Loggers of the trainer.
        checkpoint: best.ckpt; exported files come from the latest export next to it.
        results: As in `log_results`.
    """
    logger = next((logger for logger in loggers if isinstance(logger, Wandb)), None)
    run = find_run(loggers) if logger is not None and logger.logs_model else None
    if run is None:
        return
    import wandb

    parts = {"checkpoint": ("model", checkpoint), "exported": ("exported model", newest_export(checkpoint.parent))}
    for name, (kind, path) in parts.items():
        if not path.exists():
            continue
        artifact = wandb.Artifact(f"{run.id}-{name}", type=kind, metadata=_loggable(results))
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path))
        run.log_artifact(artifact, aliases=["best"])


def finish(loggers: Iterable[Logger], failed: bool = False) -> None:
    """Close W&B runs and print how to upload offline ones. Call it last."""
    for logger in loggers:
        if isinstance(logger, Wandb):
            logger.finish(failed)


def _loggable(results: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in results.items() if isinstance(value, str | int | float | bool)}
    return {key: value for key, value in plain.items() if isinstance(value, str) or math.isfinite(value)}
