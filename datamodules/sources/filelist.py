"""Image list: a CSV file with the columns path, label and optionally split and group."""

from pathlib import Path

from datamodules.sources.base import Sample, Source
from datamodules.sources.csv_table import read_table
from datamodules.sources.folder import SPLIT_NAMES, natural_key
from litesort.errors import DataError


class FileListSource(Source):
    """Images listed in a CSV file.

    The first line contains the column names: `path`, `label`, and optionally `split` (train, val, test or empty) and
    `group` (images of a group stay in one split). Other columns are ignored. The separator is a comma, semicolon or
    tab.

    Args:
        file: CSV file, UTF-8.
        root: Folder that relative paths start from; None is the folder of the CSV file.

    Raises:
        DataError: The file or a column is missing, or a line is invalid. The message names the line.
    """

    def __init__(self, file: str | Path | None, root: str | Path | None = None) -> None:
        if file is None:
            raise DataError(
                "data.file is not set: give a CSV file with the columns path,label, e.g. data.file=labels.csv"
            )
        self.list = Path(file).expanduser()
        if not self.list.is_file():
            raise DataError(f"data.file={file} is not a file: give the CSV file with the columns path,label")
        self.root = Path(root).expanduser() if root is not None else self.list.parent
        if not self.root.is_dir():
            raise DataError(f"data.root={root} is not a folder: give the folder that the paths are relative to")
        rows = list(read_table(self.list, ["path", "label"], ["split", "group"]))
        if not rows:
            raise DataError(f"data.file={file} contains no image: add lines below the header")
        self.classes = sorted({row["label"] for _, row in rows}, key=natural_key)
        labels = {name: label for label, name in enumerate(self.classes)}
        lines: dict[str, int] = {}
        for line, row in rows:
            if row["split"] and row["split"].casefold() not in SPLIT_NAMES:
                raise DataError(
                    f"{file}, line {line}: split {row['split']!r} is invalid: expected train, val, test or nothing"
                )
            if lines.setdefault(row["path"], line) != line:
                raise DataError(f"{file}, line {line}: {row['path']} is also in line {lines[row['path']]}")
        self.samples = [
            Sample(row["path"], labels[row["label"]], SPLIT_NAMES.get(row["split"].casefold()), row["group"] or None)
            for _, row in rows
        ]
