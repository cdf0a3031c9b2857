"""A list of photos: a CSV file with the columns path, label and, if wanted, split and group."""

from pathlib import Path

from datamodules.sources.base import Sample, Source
from datamodules.sources.csv_table import read_table
from datamodules.sources.folder import SPLIT_NAMES, natural
from litesort.errors import DataError


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
        rows = list(read_table(self.list, ["path", "label"], ["split", "group"]))
        if not rows:
            raise DataError(f"data.file={file} names no photo: add lines below the header")
        self.classes = sorted({row["label"] for _, row in rows}, key=natural)
        labels = {name: label for label, name in enumerate(self.classes)}
        lines: dict[str, int] = {}
        for line, row in rows:
            if row["split"] and row["split"].casefold() not in SPLIT_NAMES:
                raise DataError(f"{file}, line {line}: split {row['split']!r} is not train, val, test or blank")
            if lines.setdefault(row["path"], line) != line:
                raise DataError(f"{file}, line {line}: {row['path']} is already named in line {lines[row['path']]}")
        self.samples = [
            Sample(row["path"], labels[row["label"]], SPLIT_NAMES.get(row["split"].casefold()), row["group"] or None)
            for _, row in rows
        ]
