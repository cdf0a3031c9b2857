"""Write the files of a model atomically, and only if they pass a check."""

import errno
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from litesort.errors import DeploymentError

# Takes the file under its temporary name; an exception keeps it from getting its final name.
Verify = Callable[[Path], None]


@contextmanager
def placing(path: Path, verify: Verify | None = None, companions: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a temporary file; it is renamed to `path` once it is written and `verify` returns.

    Args:
        path: Final name; missing folders are made.
        verify: Called with the written file.
        companions: Suffixes of further files of the model, e.g. (".bin",), with the same stem in the same folder.

    Raises:
        DeploymentError: The disk is full, or the folder cannot be written to. Then, and if `verify` raises, there is
            no new file under any of the final names.
    """
    folder = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", dir=path.parent))
        draft = folder / path.name
        yield draft
        written = [draft.with_suffix(suffix) for suffix in companions] + [draft]
        if not all(file.is_file() and file.stat().st_size for file in written):
            raise DeploymentError(f"{path} is incomplete: free some disk space")
        if verify is not None:
            verify(draft)
        if companions:
            path.unlink(missing_ok=True)  # an old graph must never be beside new weights
        for file in written:
            file.replace(path.parent / file.name)
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
        raise DeploymentError(
            f"{path} cannot be written: {reason}: free some space, or give another out=FOLDER"
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
