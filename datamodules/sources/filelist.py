"""A list of photos: a CSV file with the columns path, label and, if wanted, split and group."""

import csv
from collections.abc import Iterator
from pathlib import Path

from datamodules import DataError
from datamodules.sources.base import Sample, Source
from datamodules.sources.folder import SPLIT_NAMES, natural


class FileListSource(Source):
    """Photos named by a CSV file.

    The first line names the columns: `path` and `label`; `split` (train, val, test or blank) and `group` (photos of one
    group stay on one side) if they are wanted; others are passed over. Comma, semicolon or tab between columns.

    Args:
        file: the CSV file, UTF-8.
        root: folder that relative paths start from; None is the folder of the CSV file.

    Raises:
        DataError: no such file, no such column, or a line that cannot be used; the message names the line.
    """

    def __init__(self, file: str | Path | None, root: str | Path | None = None) -> None:
        if file is None:
            raise DataError(
                "data.file is not given: name the CSV file with the columns path,label: data.file=labels.csv"
            )
        self.list = Path(file).expanduser()
        if not self.list.is_file():
            raise DataError(f"data.file={file} is not a file: give the CSV file with the columns path,label")
        self.root = Path(root).expanduser() if root is not None else self.list.parent
        if not self.root.is_dir():
            raise DataError(f"data.root={root} is not a folder: give the folder that the paths of the list start from")
        rows = list(_rows(self.list))
        if not rows:
            raise DataError(f"data.file={file} names no photo: add lines below the header")
        self.classes = sorted({row["label"] for _, row in rows}, key=natural)
        labels = {name: label for label, name in enumerate(self.classes)}
        lines: dict[str, int] = {}
        for line, row in rows:
            if lines.setdefault(row["path"], line) != line:
                raise DataError(f"{file}, line {line}: {row['path']} is already named in line {lines[row['path']]}")
        self.samples = [
            Sample(row["path"], labels[row["label"]], SPLIT_NAMES.get(row["split"].casefold()), row["group"] or None)
            for _, row in rows
        ]


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and the four columns of each line that is not blank."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            header = handle.readline()
            handle.seek(0)
            reader = csv.reader(handle, delimiter=max(",;\t", key=header.count), strict=True)
            columns = _columns(file, next(reader, []))
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, _row(file, reader.line_num, columns, cells)
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text ({error.reason}): save the list as CSV, UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: {error}: save the list as plain CSV") from error


def _columns(file: Path, header: list[str]) -> dict[str, int]:
    names = [name.strip().casefold() for name in header]
    missing = [name for name in ("path", "label") if name not in names]
    if missing:
        got = ",".join(header) or "nothing"
        raise DataError(
            f"{file}, line 1: no column {' and '.join(missing)}: the first line must be path,label; it is {got:.80}"
        )
    return {name: names.index(name) for name in ("path", "label", "split", "group") if name in names}


def _row(file: Path, line: int, columns: dict[str, int], cells: list[str]) -> dict[str, str]:
    if len(cells) <= max(columns.values()):
        raise DataError(f"{file}, line {line}: {len(cells)} columns, expected at least {max(columns.values()) + 1}")
    row = {
        name: cells[columns[name]].strip() if name in columns else "" for name in ("path", "label", "split", "group")
    }
    for name in ("path", "label"):
        if not row[name]:
            raise DataError(f"{file}, line {line}: the {name} is blank: fill it in or delete the line")
    if row["split"] and row["split"].casefold() not in SPLIT_NAMES:
        raise DataError(f"{file}, line {line}: split {row['split']!r} is not train, val, test or blank")
    return row
