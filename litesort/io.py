"""Write files atomically: a reader never sees an incomplete file, even if the writer is killed."""

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(path: Path, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary file beside `path`; it is renamed to `path` if nothing is raised.

    Missing folders are created.

    Raises:
        FileExistsError: `path` exists at the end, and `overwrite` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        if overwrite:
            temporary.replace(path)
        else:
            _rename_new(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text with the line ends as given, bytes of a name that are not UTF-8 as \\udcff; returns `path`."""
    with replacing(path) as temporary, open_text(temporary) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return path


def write_json(path: Path, data: Any) -> Path:
    """Write strict JSON: numpy values become plain ones, NaN and infinities become null; returns `path`."""
    return write_text(path, json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Path:
    """Write rows under a header; a missing or NaN value is an empty cell, a list is joined by spaces; returns `path`.

    Text that a spreadsheet would run as a formula gets an apostrophe in front.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([csv_cell(column) for column in columns])
    writer.writerows([csv_cell(row.get(column)) for column in columns] for row in rows)
    return write_text(path, text.getvalue())


def csv_cell(value: Any) -> Any:
    """Return the CSV cell of a value.

    Example:
        >>> csv_cell("=HYPERLINK(1)"), csv_cell(-0.5), csv_cell(float("nan")), csv_cell([0, 1])
        ("'=HYPERLINK(1)", -0.5, '', '0 1')
    """
    value = plain(value)
    if value is None:
        return ""
    if isinstance(value, list):
        value = " ".join(str(part) for part in value)
    elif isinstance(value, dict):
        value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return "'" + value
    return value


def plain(data: Any) -> Any:
    """Convert data to dicts, lists, strings, numbers and None; numbers that are not finite become None."""
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple | set | frozenset):
        return [plain(value) for value in (sorted(data, key=str) if isinstance(data, set | frozenset) else data)]
    if hasattr(data, "tolist"):  # numpy arrays and scalars
        return plain(data.tolist())
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    return data if data is None or isinstance(data, str | int) else str(data)


def open_text(path: Path) -> IO[str]:
    """Open a file for UTF-8 text; surrogates, as in file names that are not UTF-8, are written as escapes."""
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")


def _rename_new(temporary: Path, path: Path) -> None:
    """Rename a file to a new name; FileExistsError if the name is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        temporary.replace(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
