"""Predictions for unlabelled images: rows are written as a stream and counted for the terminal."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from csv import writer
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from litesort.io import atomic_path, csv_cell, open_text, plain
from reports.results import one_line

REJECTED, BROKEN = "rejected", "broken"  # values of a row's `status`; "ok" is the third


def prediction_rows(
    files: Sequence[Path],
    reasons: Sequence[str],
    probabilities: np.ndarray,
    classes: Sequence[str],
    min_confidence: float,
) -> Iterator[dict[str, Any]]:
    """Yield one row per file: file, prediction, confidence, status (ok, rejected, broken), reason and `p_<class>`.

    Args:
        files: (B,) paths.
        reasons: (B,) error of each unreadable file; "" for a readable one.
        probabilities: (b, C) float in [0, 1], of the readable files, in order.
        classes: (C,) names.
        min_confidence: Predictions of lower confidence get the status "rejected".
    """
    remaining = iter(probabilities)
    for file, reason in zip(files, reasons, strict=True):
        row: dict[str, Any] = {"file": str(file), "prediction": None, "confidence": None, "status": BROKEN}
        if reason:
            yield row | {"reason": reason}
            continue
        values = next(remaining)
        confidence = float(values.max())
        low = confidence < min_confidence
        yield (
            row
            | {
                "prediction": classes[int(values.argmax())],
                "confidence": round(confidence, 6),
                "status": REJECTED if low else "ok",
                "reason": f"confidence below {min_confidence:g}" if low else None,
            }
            | {f"p_{name}": round(float(share), 6) for name, share in zip(classes, values, strict=True)}
        )


class PredictionWriter:
    """Write rows one by one, store the first few and count all. The memory use is constant.

    A rejected prediction counts as rejected, not as its class.

    Use it as a context manager. The files appear under their names when the block ends without an error.

    Args:
        classes: (C,) names.
        csv: CSV file to write, or None.
        json: JSON file to write, or None. A name ending in .jsonl gives one object per line, any other name one array.
        shown: Number of rows to print.
        overwrite: Whether existing files are replaced. Otherwise an existing file raises FileExistsError at the end.
    """

    def __init__(
        self, classes: Sequence[str], csv: Path | None, json: Path | None, shown: int, overwrite: bool = False
    ) -> None:
        self.columns = ["file", "prediction", "confidence", "status", "reason", *(f"p_{name}" for name in classes)]
        self.csv, self.json, self.shown, self.overwrite = csv, json, shown, overwrite
        self.first: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self._stack = ExitStack()

    def __enter__(self) -> "PredictionWriter":
        self._table = self._lines = None
        if self.csv is not None:
            self._table = writer(self._open(self.csv), lineterminator="\n")
            self._table.writerow([csv_cell(column) for column in self.columns])
        if self.json is not None:
            self._lines = self._open(self.json)
            self._array = self.json.suffix.lower() != ".jsonl"
            self._lines.write("[\n" if self._array else "")
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool | None:
        if kind is None and self._lines is not None and self._array:
            self._lines.write("\n]\n")
        return self._stack.__exit__(kind, error, trace)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write and count one row of `prediction_rows`."""
        if self._table is not None:
            self._table.writerow([csv_cell(row.get(column)) for column in self.columns])
        if self._lines is not None:
            between = (",\n" if self.statuses.total() else "") if self._array else ""
            text = json.dumps(plain(row), ensure_ascii=False, allow_nan=False)
            self._lines.write(between + text + ("" if self._array else "\n"))
        if len(self.first) < self.shown:
            self.first.append(dict(row))
        self.statuses[row["status"]] += 1
        if row["status"] == "ok":
            self.counts[row["prediction"]] += 1

    def print(self, console: Console | None = None) -> None:
        """Print the first rows as a table, then the number of images per class, rejected and broken."""
        console = console or Console()
        table = Table(box=None)
        table.add_column("file", overflow="fold")
        table.add_column("class", style="cyan", no_wrap=True)
        table.add_column("confidence", justify="right", no_wrap=True)
        table.add_column("", overflow="fold")
        for row in self.first:
            share = "" if row["confidence"] is None else f"{row['confidence']:.3f}"
            note = "" if row["status"] == "ok" else f"{row['status']}: {one_line(row['reason'])}"
            table.add_row(Text(one_line(row["file"])), Text(one_line(row["prediction"] or "", 40)), share, Text(note))
        console.print(table)
        total = self.statuses.total()
        if total > len(self.first):
            console.print(Text(f"... and {total - len(self.first):,} more"))
        counts = ", ".join(f"{one_line(name, 40)} {count:,}" for name, count in self.counts.most_common())
        tail = "".join(f", {self.statuses[name]:,} {name}" for name in (REJECTED, BROKEN) if self.statuses[name])
        noun = "image" if total == 1 else "images"
        console.print(Text(f"{total:,} {noun}: {counts or 'no predictions'}{tail}", style="bold"))

    def _open(self, path: Path) -> IO[str]:
        temporary = self._stack.enter_context(atomic_path(path, overwrite=self.overwrite))
        return self._stack.enter_context(open_text(temporary))
