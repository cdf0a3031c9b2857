"""Folders that belong to one process: those of runs and sweeps, and those of exports."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from litesort.cli.resume import LOCK

EXPORT = "export.json"  # in an export's folder: written after all its files


def fresh_dir(name: str, *, _root_: DictConfig) -> str:
    """Folder of a new run or sweep: `name`, or `name-2`, `name-3`, ... where that is there already.

    The answer stays in the config's cache, as that of Hydra's `now` does: a sweep's jobs get it too, in any process.
    A config that is only shown (`--cfg`) makes no folder: its `hydra.mode` is null. Nor does one of several processes
    that something else started as one run (torchrun): all of them need the same answer.
    """
    shown = OmegaConf.select(_root_, "hydra.mode") is None
    if shown or "LOCAL_RANK" in os.environ:
        return name
    answers = OmegaConf.get_cache(_root_)["fresh_dir"]
    if name not in answers:
        answers[name] = claim(name)
    return str(answers[name])


def resume_dir(ckpt: str | None, fresh: str, *, _root_: DictConfig) -> str:
    """Folder of a run: the checkpoint's own when it resumes, else a fresh one: a mistyped path makes no folder."""
    return str(Path(ckpt).parent) if ckpt and Path(ckpt).is_file() else fresh_dir(fresh, _root_=_root_)


def claim(name: str) -> str:
    """Make a folder that was not there: `name`, `name-2`, `name-3`, ...; returns its path.

    Making it is the claim: processes that ask at the same time get different folders.
    """
    try:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        for folder in _numbered(Path(name)):
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return str(folder)
    except OSError:  # Hydra cannot make it either, and `litesort.cli.launch` makes one line of its error
        pass
    return name


@contextmanager
def export_folder(ckpt: str, out: str | None, overwrite: bool) -> Iterator[Path]:
    """Hold a folder that an export may write into, from the first file to export.json.

    Without `out` it is the first of `exported`, `exported-2`, ... beside the checkpoint that holds no finished export
    and that no other export is writing into.

    Args:
        ckpt: The checkpoint.
        out: The folder that the user names; None: beside the checkpoint.
        overwrite: Replace a finished export in `out`, or in `exported`.

    Raises:
        ModelError: `out` holds a finished export, is held by another process, or cannot be made.
    """
    first = Path(out or Path(ckpt).parent / "exported")
    folders = iter([first]) if out or overwrite else _numbered(first)
    held = next(filter(None, (_hold(folder, overwrite) for folder in folders)), None)
    if held is None:
        if (first / EXPORT).is_file() and not overwrite:
            raise _refusal(f"out={first} holds an export: give another out, or overwrite=true to replace it")
        raise _refusal(f"out={first} is in the hands of another export: wait for its end, or give another out")
    folder, lock = held
    try:
        (folder / EXPORT).unlink(missing_ok=True)  # it does not describe what is written from now on
        yield folder
    finally:
        if (folder / EXPORT).is_file():  # an unfinished export keeps the file of its lock: others may wait for it
            (folder / LOCK).unlink(missing_ok=True)
        lock.release()


def _hold(folder: Path, overwrite: bool) -> tuple[Path, FileLock] | None:
    """Lock an export's folder, made if it is not there; None if it is not free."""
    try:
        if (folder / EXPORT).is_file() and not overwrite:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except OSError as error:
        raise _refusal(f"out={folder} cannot be written into: {error.strerror or error}: give another out") from error
    if (folder / EXPORT).is_file() and not overwrite:  # another process has just finished it
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        return None
    return folder, lock


def _numbered(path: Path) -> Iterator[Path]:
    """The path, then the path with -2, -3, ... at its end."""
    yield path
    yield from (path.with_name(f"{path.name}-{number}") for number in count(2))


def _refusal(message: str) -> Exception:
    from litesort.errors import ModelError

    return ModelError(message)
