"""Quarantine: leave out, list and count images that cannot be read."""

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytorch_lightning.utilities import rank_zero_only

from datamodules.sources.base import Sample
from litesort.errors import DataError
from litesort.io import atomic_path, open_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuarantineConfig:
    """What to do with images that cannot be read.

    Attributes:
        on_error: "quarantine" leaves broken images out. "raise" stops at the first.
        quarantine_dir: Folder of `quarantine.csv` (path, reason); None writes no list.

    Raises:
        DataError: `on_error` is invalid.
    """

    on_error: Literal["quarantine", "raise"] = "quarantine"
    quarantine_dir: str | Path | None = None

    def __post_init__(self) -> None:
        if self.on_error not in ("quarantine", "raise"):
            raise DataError(f"data.on_error={self.on_error} is invalid: expected quarantine or raise")


class Quarantine:
    """The broken images of a source.

    Args:
        samples: Samples of the source.
        config: What to do with broken images.

    Attributes:
        broken: Row of `samples` -> reason why the image cannot be read.
    """

    def __init__(self, samples: Sequence[Sample], config: QuarantineConfig) -> None:
        self.samples, self.on_error = samples, config.on_error
        self.folder = Path(config.quarantine_dir) if config.quarantine_dir is not None else None
        self.broken: dict[int, str] = {}

    def add(self, broken: dict[int, str]) -> None:
        """Add broken images. The first call with broken images logs a warning; the list contains all of them.

        Raises:
            DataError: `on_error` is "raise", or no image of the source can be read.
        """
        new = {row: reason for row, reason in broken.items() if row not in self.broken}
        if not new:
            return
        first = "{}: {}".format(*self._csv_row(*next(iter(new.items()))))
        if self.on_error == "raise":
            raise DataError(f"data.on_error=raise, and an image cannot be read: {first}: repair or remove it")
        warned = bool(self.broken)
        self.broken |= new
        if len(self.broken) == len(self.samples):
            raise DataError(
                f"data: none of the {len(self.samples)} images can be read; the first is {first}: check data.root"
            )
        if not first_process():
            return
        where = f"the first is {first}" if self.folder is None else f"listed in {self._write_list(self.folder)}"
        if not warned:
            count = f"{len(self.broken)} of {len(self.samples)}"
            log.warning("data: %s images cannot be read and are left out: %s", count, where)

    def _csv_row(self, row: int, reason: str) -> tuple[str, str]:
        return self.samples[row].path, reason

    def _write_list(self, folder: Path) -> Path:
        """Write the list atomically."""
        file = folder / "quarantine.csv"
        with atomic_path(file) as temporary, open_text(temporary) as handle:
            csv.writer(handle).writerows([("path", "reason"), *(self._csv_row(*item) for item in self.broken.items())])
        return file


def first_process() -> bool:
    """Whether this process is rank 0, which logs and writes."""
    return getattr(rank_zero_only, "rank", 0) == 0
