"""Write the files of a model atomically, and only if they pass a check."""

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from litesort.errors import DeploymentError
from litesort.io import atomic_path

# Checks a file under its temporary name. If the check raises an exception, the file is deleted.
Verify = Callable[[Path], None]


@contextmanager
def verified_write(path: Path, verify: Verify | None = None, companions: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a temporary path. The file is renamed to `path` after it is written and `verify` has returned.

    Args:
        path: Final name. Missing folders are created.
        verify: Called with the written file.
        companions: Suffixes of further files of the model, e.g. (".bin",), with the same stem in the same folder.

    Raises:
        DeploymentError: The disk is full, or the folder cannot be written to. In this case, and if `verify` raises,
            no file is renamed.
    """
    try:
        with atomic_path(path, companions=companions) as draft:
            yield draft
            written = [draft, *(draft.with_suffix(suffix) for suffix in companions)]
            if not all(file.is_file() and file.stat().st_size for file in written):
                raise DeploymentError(f"{path} is incomplete: free some disk space")
            if verify is not None:
                verify(draft)
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
        raise DeploymentError(
            f"{path} cannot be written: {reason}: free some space, or give another out=FOLDER"
        ) from error
