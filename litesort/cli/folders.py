"""Folders of runs, sweeps and exports; each is used by one process at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from litesort.cli.resume import LOCK
from litesort.errors import ModelError, UserError

RESULTS = ("metrics.json", "last.ckpt", "best.ckpt")  # files in the folder of a run that another run must not replace
EXPORT = "export.json"  # in an export folder: written after all other files


def fresh_dir(name: str, *, _root_: DictConfig) -> str:
    """Create the folder of a new run or sweep: `name`, or `name-2`, `name-3`, ... if it exists; returns its path.

    The path is cached in the config, like Hydra's `now`, so all jobs of a sweep get the same one in any process. No
    folder is created for a config that is only shown (`--cfg`, where `hydra.mode` is null), or in the processes of a
    run that torchrun starts, since all of them need the same path.
    """
    shown = OmegaConf.select(_root_, "hydra.mode") is None
    if shown or "LOCAL_RANK" in os.environ:
        return name
    paths = OmegaConf.get_cache(_root_)["fresh_dir"]
    if name not in paths:
        paths[name] = create_unique_folder(name)
    return str(paths[name])


def resume_dir(ckpt: str | None, fresh: str, *, _root_: DictConfig) -> str:
    """Return the folder of the checkpoint for a resumed run, or create a new folder."""
    return str(Path(ckpt).parent) if ckpt and Path(ckpt).is_file() else fresh_dir(fresh, _root_=_root_)


def network_name(ckpt_init: str | None, name: str) -> str:
    """Name the network of a new run, for its folder.

    Args:
        ckpt_init: Checkpoint whose network the run starts from, if any.
        name: Network of the composed config; it is used without `ckpt_init`.

    Returns:
        `name`, or the network that config.yaml beside the checkpoint names, or "from-FILE" if there is no such file.
    """
    if not ckpt_init:
        return name
    with suppress(OSError, YAMLError, OmegaConfBaseException):
        if own := OmegaConf.select(OmegaConf.load(Path(ckpt_init).parent / "config.yaml"), "model.name"):
            return str(own)
    return f"from-{Path(ckpt_init).stem}"


def create_unique_folder(name: str) -> str:
    """Create a new folder: the first of `name`, `name-2`, `name-3`, ... that does not exist; returns its path.

    `mkdir` is atomic, so processes that call this at the same time get different folders.
    """
    try:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        for folder in _numbered(Path(name)):
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return str(folder)
    except OSError:  # Hydra then raises the same error, and `litesort.cli.launch` shows it in one line
        pass
    return name


def refuse_used(folder: Path, ckpt: str | None, resumes: bool) -> None:
    """Refuse a folder with the results of another run, which a new run would replace.

    Args:
        folder: Folder of the run; it need not exist.
        ckpt: Checkpoint of the command line.
        resumes: Whether the command continues the run of `ckpt`, in the folder of `ckpt`.

    Raises:
        UserError: The folder holds results or checkpoints of another run.
    """
    if resumes and ckpt and Path(ckpt).resolve().parent == folder.resolve():
        return
    if found := next((name for name in RESULTS if (folder / name).is_file()), None):
        resume = f", or resume its run with ckpt={folder / 'last.ckpt'}" if (folder / "last.ckpt").is_file() else ""
        raise UserError(f"hydra.run.dir={folder} holds {found} of another run: choose another folder{resume}")


@contextmanager
def export_folder(ckpt: str, out: str | None, overwrite: bool) -> Iterator[Path]:
    """Lock the folder of an export until export.json is written.

    Without `out`, it is the first of `exported`, `exported-2`, ... beside the checkpoint that holds no finished export
    and is not locked.

    Args:
        ckpt: The checkpoint.
        out: The folder; None: beside the checkpoint.
        overwrite: Replace a finished export in `out`, or in `exported`.

    Raises:
        ModelError: `out` holds a finished export, is locked by another process, or cannot be created.
    """
    first = Path(out or Path(ckpt).parent / "exported")
    folders = iter([first]) if out or overwrite else _numbered(first)
    locked = next(filter(None, (_lock(folder, overwrite) for folder in folders)), None)
    if locked is None:
        if (first / EXPORT).is_file() and not overwrite:
            raise ModelError(f"out={first} holds an export: give another out, or overwrite=true to replace it")
        raise ModelError(f"out={first} is locked by another export: wait until it ends, or give another out")
    folder, lock = locked
    try:
        (folder / EXPORT).unlink(missing_ok=True)  # it describes the files that are replaced
        yield folder
    finally:
        if (folder / EXPORT).is_file():  # an unfinished export keeps its lock file: other processes may wait for it
            (folder / LOCK).unlink(missing_ok=True)
        lock.release()


def _lock(folder: Path, overwrite: bool) -> tuple[Path, FileLock] | None:
    """Create and lock the folder of an export; None if it is locked or holds a finished export."""
    try:
        if (folder / EXPORT).is_file() and not overwrite:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except OSError as error:
        raise ModelError(f"out={folder} cannot be written: {error.strerror or error}: give another out") from error
    if (folder / EXPORT).is_file() and not overwrite:  # another process has just finished it
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        return None
    return folder, lock


def _numbered(path: Path) -> Iterator[Path]:
    """Yield the path, then the path with the suffixes -2, -3, ..."""
    yield path
    yield from (path.with_name(f"{path.name}-{number}") for number in count(2))
