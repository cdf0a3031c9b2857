"""Write files atomically: a reader never sees an incomplete file, even if the writer is killed."""

import csv
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_path(
    path: Path, *, overwrite: bool = True, companions: Sequence[str] = (), one_writer: bool = False
) -> Iterator[Path]:
    """Yield a temporary path; the file written there is renamed to `path` if nothing is raised.

    The temporary file has the same name and is in a hidden folder beside `path`. Missing folders are created.

    Args:
        path: Final path.
        overwrite: Whether an existing file is replaced.
        companions: Suffixes of further files with the same stem, e.g. (".bin",). They are renamed first, and an old
            `path` is deleted before, so `path` never exists beside older companions.
        one_writer: Whether this process is the only one that writes `path`. The hidden folder then has a fixed name,
            so a killed process leaves one temporary file at most, and the next write replaces it.

    Raises:
        FileExistsError: `path` exists at the end, and `overwrite` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if one_writer:
        folder = path.with_name(f".{path.name}.tmp")
        folder.mkdir(exist_ok=True)
    else:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", suffix=".tmp", dir=path.parent))
    temporary = folder / path.name
    try:
        yield temporary
        if companions:
            path.unlink(missing_ok=True)
        for suffix in companions:
            temporary.with_suffix(suffix).replace(path.with_suffix(suffix))
        if overwrite:
            temporary.replace(path)
        else:
            _rename_new(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text and return `path`.

    Line ends are not translated. Bytes of a file name that are not UTF-8 become escapes such as `\\udcff`.
    """
    with atomic_path(path) as temporary, open_text(temporary) as file:
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
