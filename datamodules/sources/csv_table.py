"""Read CSV files as spreadsheets write them. Errors are one line and name the file and line."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from litesort.errors import DataError


def read_table(file: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and columns of each non-empty line. Missing optional columns are "".

    The first line contains the column names. The separator is a comma, semicolon or tab; the encoding is UTF-8.

    Raises:
        DataError: The file cannot be read, is not a UTF-8 CSV file, a required column is missing, or a required value
            is empty.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            header = handle.readline()
            handle.seek(0)
            reader = csv.reader(handle, delimiter=max(",;\t", key=header.count), strict=True)
            columns = _columns(file, next(reader, []), required, optional)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    row = _row(file, reader.line_num, columns, cells, required)
                    yield reader.line_num, dict.fromkeys(optional, "") | row
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror or error}): check its permissions") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text ({error.reason}): save the list as CSV, UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: {error}: save the list as plain CSV") from error


def _columns(file: Path, header: list[str], required: Sequence[str], optional: Sequence[str]) -> dict[str, int]:
    names = [name.strip().casefold() for name in header]
    missing = [name for name in required if name not in names]
    if missing:
        got = ",".join(header) or "nothing"
        what = f"no column {' and '.join(missing)}: the first line must be {','.join(required)}"
        raise DataError(f"{file}, line 1: {what}; it is {got:.80}")
    return {name: names.index(name) for name in (*required, *optional) if name in names}


def _row(file: Path, line: int, columns: dict[str, int], cells: list[str], required: Sequence[str]) -> dict[str, str]:
    if len(cells) <= max(columns.values()):
        raise DataError(f"{file}, line {line}: {len(cells)} columns, expected at least {max(columns.values()) + 1}")
    row = {name: cells[place].strip() for name, place in columns.items()}
    for name in required:
        if not row[name]:
            raise DataError(f"{file}, line {line}: the {name} is empty: fill it in or delete the line")
    return row
