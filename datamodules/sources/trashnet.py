"""TrashNet: 2,527 images of six kinds of waste on white paper, downloaded from the authors' repository.

Gary Thung and Mindy Yang, 2016, https://github.com/garythung/trashnet, MIT licence.
"""

from pathlib import Path

from filelock import FileLock

from datamodules.cache import default_cache_dir
from datamodules.quarantine import first_process
from datamodules.sources.archive.download import download
from datamodules.sources.archive.extract import unpack
from datamodules.sources.base import Sample
from datamodules.sources.folder import FolderSource
from litesort.errors import DataError

COUNTS = {"cardboard": 403, "glass": 501, "metal": 410, "paper": 594, "plastic": 482, "trash": 137}
INNER = "dataset-resized"


class TrashnetSource(FolderSource):
    """TrashNet in a folder, or in litesort's cache, downloaded on first use.

    The images of a class are numbered in the order in which they were taken. Neighbouring numbers often show the same
    object, so conf/data/trashnet.yaml splits the images by blocks of numbers.

    Args:
        root: Folder with one sub-folder per class; None downloads the set.
        cache_dir: Folder of the downloaded set; None is the default cache folder.
        url: URL of the zip file; None downloads nothing.
        sha256: Checksum of the zip file, 64 hex digits; None accepts any and logs it.
        timeout: Seconds without a response.

    Raises:
        DataError: `root` is not a folder of classes. `prepare` raises it if the download fails or the folder cannot be
            written.
    """

    def __init__(
        self,
        root: str | Path | None,
        cache_dir: str | Path | None = None,
        url: str | None = None,
        sha256: str | None = None,
        timeout: float = 30,
    ) -> None:
        self.home = None
        if root is not None:
            super().__init__(root)
            return
        parent = Path(cache_dir).expanduser() if cache_dir is not None else default_cache_dir()
        self.home, self.url, self.sha256, self.timeout = parent / "trashnet", url, sha256, timeout
        self.root = self.home / "images" / INNER
        self.classes = list(COUNTS)
        self.samples = [
            Sample(f"{name}/{name}{number}.jpg", label)
            for label, (name, count) in enumerate(COUNTS.items())
            for number in range(1, count + 1)
        ]

    def prepare(self) -> None:
        """Download and unpack the images if they do not exist."""
        if self.home is None or self.root.is_dir():
            return
        archive, folder, progress = self.home / f"{INNER}.zip", self.home / "images", first_process()
        hint = f"put the file at {archive} yourself (data.source.sha256=null accepts any), or set data.root=FOLDER"
        if self.url is None and not archive.exists():
            raise DataError(f"data: TrashNet is not in the cache, {self.root}: add data=trashnet, which downloads it")
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.home}.lock"):  # concurrent jobs download once
                if not folder.is_dir():
                    download(
                        self.url or "", archive, hint=hint, sha256=self.sha256, timeout=self.timeout, progress=progress
                    )
                    unpack(archive, folder)
                    archive.unlink()
        except OSError as error:
            raise DataError(f"{self.home} cannot be written ({error.strerror or error}): set data.cache_dir") from error
        if not self.root.is_dir():
            raise DataError(f"{self.url} contains no folder {INNER}: delete {folder}, and set data.source.url")
