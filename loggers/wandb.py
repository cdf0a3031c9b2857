"""Weights & Biases: the logger, and what a run sends it beside its curves."""

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

from reports.results import newest_export

DATA_DIR = "WANDB_DATA_DIR"
HOSTS = ("https://api.wandb.ai", "https://api.forge.coreweave.com")  # the public server's names, the older first


class Wandb(WandbLogger):
    """Lightning's W&B logger that decides for itself whether it can be online, and keeps every file in the run folder.

    Args:
        save_dir: The run folder; W&B makes `wandb/` in it.
        project: Project on the server.
        entity: User or team; None: the key's default.
        name: Display name of the run.
        group: Runs shown together; None: the sweep's folder name in a sweep, else none.
        job_type: "train", "evaluate", ...
        tags: Words to filter by.
        notes: A sentence about the run.
        offline: "auto": offline where there is no key (`WANDB_API_KEY`, netrc); `WANDB_MODE` is heeded.
        init_timeout: Seconds a server may take to answer; after that the run goes on offline.
        log_model: Keep the best checkpoint and what was exported from it as artifacts; "all": every checkpoint too, as
            it is written, and only online.
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
        del self._wandb_init["anonymous"]  # gone from W&B; passing it, even as None, is warned of
        self.works_offline = works_offline
        self.keeps_model = bool(log_model)
        self.init_timeout = init_timeout

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `wandb.Run`; started on first use."""
        if self._experiment is None:
            self._experiment = self._start()
        return self._experiment

    def finish(self, failed: bool = False) -> None:
        """Close the run; if it was offline, print the command that uploads it."""
        if self._experiment is None:
            return
        folder = Path(self._experiment.dir).parent
        self._experiment.finish(exit_code=int(failed))
        self._experiment = None
        os.environ.pop(DATA_DIR, None)
        if self.works_offline:
            print(f"W&B worked offline; upload this run with: wandb sync {folder}")

    def _start(self) -> Any:
        import wandb

        assert self._save_dir is not None
        folder = Path(self._save_dir).resolve()
        (folder / "wandb").mkdir(parents=True, exist_ok=True)
        # Tables stage their pictures there, by default in the user's home.
        os.environ[DATA_DIR] = str(folder / "wandb")
        if wandb.run is not None:
            wandb.finish()  # left open by a run that failed in this process
        note = folder / "wandb" / "id"  # a resumed run goes on with its curves
        self._id = self._id or (note.read_text() if note.exists() else secrets.token_hex(4))
        note.write_text(self._id)
        self._wandb_init["id"] = self._id
        if not self.works_offline:
            try:
                check_reachable()  # W&B itself retries for init_timeout and more
                return self._init("online")
            except (OSError, wandb.Error) as error:
                reason = " ".join(str(error).split())[:120]
                print(f"W&B cannot be reached ({reason}); going on offline", file=sys.stderr)
                if not isinstance(error, OSError):
                    wandb.teardown()  # forgets the attempt, which holds the run's id
                self.works_offline, self._log_model = True, False
        return self._init("disabled" if os.environ.get("WANDB_MODE") == "disabled" else "offline")

    def _init(self, mode: Literal["online", "offline", "disabled"]) -> Any:
        import wandb

        settings = wandb.Settings(
            init_timeout=self.init_timeout,
            silent=mode != "online",  # online, the link to the run is worth its line
            console="off",  # run.log is the record; capturing stdout tears progress bars
            x_disable_stats=True,  # a sampling process on a machine whose two cores are training
        )
        run = wandb.init(**{**self._wandb_init, "mode": mode, "settings": settings})
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return run


def check_reachable(timeout: float = 5.0) -> None:
    """Open and close a connection to W&B's server; a machine behind a proxy is believed.

    Raises:
        OSError: It cannot be reached within `timeout` seconds.
    """
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or HOSTS[0])
    if not getproxies().get(server.scheme):
        port = server.port or (443 if server.scheme == "https" else 80)
        socket.create_connection((str(server.hostname), port), timeout).close()


def can_be_online() -> bool:
    """Tell whether W&B has a key to use and no mode that forbids it, without asking anybody."""
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        return False
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
    """Keep the checkpoint, and what was exported beside it, as W&B artifacts with the alias "best"; offline too.

    Nothing happens without `logger.wandb.log_model`. Artifacts are called `<run id>-checkpoint` (type "model") and
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
        artifact = wandb.Artifact(f"{run.id}-{name}", type=kind, metadata=_known(results))
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path))
        run.log_artifact(artifact, aliases=["best"])


def finish(loggers: Iterable[Logger], failed: bool = False) -> None:
    """Close W&B runs and print how to upload those that were offline; call it last."""
    for logger in loggers:
        if isinstance(logger, Wandb):
            logger.finish(failed)


def _known(results: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in results.items() if isinstance(value, str | int | float | bool)}
    return {key: value for key, value in plain.items() if isinstance(value, str) or math.isfinite(value)}
