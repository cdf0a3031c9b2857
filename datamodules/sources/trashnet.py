"""TrashNet: 2,527 photos of six kinds of waste on white paper, fetched from its authors' repository.

Gary Thung and Mindy Yang, 2016, https://github.com/garythung/trashnet, MIT licence.
"""

from pathlib import Path

from filelock import FileLock

from datamodules import DataError
from datamodules.cache import default_cache_dir
from datamodules.download import fetch
from datamodules.quarantine import first_process
from datamodules.sources.base import Sample
from datamodules.sources.folder import FolderSource
from datamodules.unpack import unpack

COUNTS = {"cardboard": 403, "glass": 501, "metal": 410, "paper": 594, "plastic": 482, "trash": 137}
INNER = "dataset-resized"


class TrashnetSource(FolderSource):
    """A folder that holds TrashNet, or, where none is given, one in litesort's cache that is filled at first use.

    The photos of a class are numbered in the order in which they were taken, and neighbours often show one object:
    split them by blocks of numbers, as conf/data/trashnet.yaml does.

    Args:
        root: folder with one sub-folder a class; None fetches the set.
        cache_dir: where it is kept then; None is litesort's cache.
        url: of the zip file; None fetches nothing.
        timeout: seconds without an answer.
    """

    def __init__(
        self, root: str | Path | None, cache_dir: str | Path | None = None, url: str | None = None, timeout: float = 30
    ) -> None:
        self.home = None
        if root is not None:
            super().__init__(root)
            return
        parent = Path(cache_dir).expanduser() if cache_dir is not None else default_cache_dir()
        self.home, self.url, self.timeout = parent / "trashnet", url, timeout
        self.root = self.home / "photos" / INNER
        self.classes = list(COUNTS)
        self.samples = [
            Sample(f"{name}/{name}{number}.jpg", label)
            for label, (name, count) in enumerate(COUNTS.items())
            for number in range(1, count + 1)
        ]

    def prepare(self) -> None:
        """Fetch and unpack the photos if they are not there yet."""
        if self.home is None or self.root.is_dir():
            return
        archive = self.home / f"{INNER}.zip"
        mend = f"fetch it elsewhere and put it to {archive}, or unpack it and say data.root=FOLDER"
        if self.url is None and not archive.exists():
            raise DataError(f"data: TrashNet is not in the cache, {self.root}: add data=trashnet, which fetches it")
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.home}.lock"):  # jobs that start together fetch once
                if self.root.is_dir():
                    return
                # no checksum is published; a zip file has its own
                fetch(
                    self.url or "",
                    archive,
                    mend=mend,
                    starts=[b"PK\3\4"],
                    timeout=self.timeout,
                    progress=first_process(),
                )
                folder = unpack(archive, self.home / "photos", progress=first_process())
                archive.unlink()
        except OSError as error:
            raise DataError(f"{self.home} cannot be written ({error.strerror or error}): set data.cache_dir") from error
        if not self.root.is_dir():
            raise DataError(f"{self.url} holds no folder {INNER}: it is not the TrashNet that is known; see {folder}")
