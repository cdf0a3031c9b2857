"""Write a model whole or not at all, and only if it passes its test."""

import errno
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from litesort.errors import DeploymentError

Verify = Callable[
    [Path], None
]  # gets the written file under its temporary name; what it raises keeps it from its place


@contextmanager
def placing(path: Path, verify: Verify | None = None, companions: Sequence[str] = ()) -> Iterator[Path]:
    """Give a file to write into, which takes the name `path` once it is written and `verify` has let it pass.

    Args:
        path: Final name; missing folders are made.
        verify: Called with the written file.
        companions: Suffixes of files that belong to it, e.g. (".bin",), written beside it under the same stem.

    Raises:
        DeploymentError: The disk is full, or the folder cannot be written to; and what `verify` raises. Nothing new is
            then left under any of the final names.
    """
    room = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", dir=path.parent))
        draft = room / path.name
        yield draft
        written = [draft.with_suffix(suffix) for suffix in companions] + [draft]
        if not all(file.is_file() and file.stat().st_size for file in written):
            raise DeploymentError(f"{path} was not written whole: is the disk full?")
        if verify is not None:
            verify(draft)
        if companions:
            path.unlink(missing_ok=True)  # an old head must never be found beside new weights
        for file in written:
            file.replace(path.parent / file.name)
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
        raise DeploymentError(
            f"{path} cannot be written: {reason}: free some space, or give another out=FOLDER"
        ) from error
    finally:
        if room is not None:
            shutil.rmtree(room, ignore_errors=True)
