"""Photos that cannot be read: left out, listed and counted, or fatal."""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pytorch_lightning.utilities import rank_zero_only

from datamodules.sources.base import Sample
from litesort.errors import DataError
from litesort.io import open_text, replacing

log = logging.getLogger(__name__)


class Quarantine:
    """The broken photos of a source.

    Args:
        samples: of the source.
        on_error: "quarantine" leaves broken photos out, "raise" stops at the first.
        folder: where `quarantine.csv` (path, reason) is written; None writes none.

    Attributes:
        broken: row of `samples` -> why the photo cannot be read.
    """

    def __init__(
        self, samples: Sequence[Sample], on_error: Literal["quarantine", "raise"], folder: str | Path | None
    ) -> None:
        if on_error not in ("quarantine", "raise"):
            raise DataError(f"data.on_error={on_error} is not known: use quarantine or raise")
        self.samples, self.on_error = samples, on_error
        self.folder = Path(folder) if folder is not None else None
        self.broken: dict[int, str] = {}

    def add(self, broken: dict[int, str]) -> None:
        """Take in photos that were found broken; the first that ever come are said, all are listed.

        Raises:
            DataError: broken photos are not to be left out, or there are no others.
        """
        new = {row: reason for row, reason in broken.items() if row not in self.broken}
        if not new:
            return
        first = "{}: {}".format(*self._line(*next(iter(new.items()))))
        if self.on_error == "raise":
            raise DataError(f"data.on_error=raise, and a photo cannot be read: {first}: repair or remove it")
        quiet = bool(self.broken)
        self.broken |= new
        if len(self.broken) == len(self.samples):
            raise DataError(f"data: none of the {len(self.samples)} photos can be read; the first is {first}")
        if not first_process():
            return
        where = f"the first is {first}" if self.folder is None else f"listed in {self._list(self.folder)}"
        if not quiet:
            count = f"{len(self.broken)} of {len(self.samples)}"
            log.warning("data: %s photos cannot be read and are left out: %s", count, where)

    def _line(self, row: int, reason: str) -> tuple[str, str]:
        return self.samples[row].path, reason

    def _list(self, folder: Path) -> Path:
        """Write the list, all or nothing."""
        file = folder / "quarantine.csv"
        with replacing(file) as temporary, open_text(temporary) as handle:
            csv.writer(handle).writerows([("path", "reason"), *(self._line(*item) for item in self.broken.items())])
        return file


def first_process() -> bool:
    """Whether this process is the one that speaks and writes."""
    return getattr(rank_zero_only, "rank", 0) == 0
