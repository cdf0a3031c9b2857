"""TACO (trash annotations in context): 1,500 images with 4,784 boxes, downloaded from their public URLs.

Pedro Proença and Pedro Simões, 2020, https://github.com/pedropro/TACO and arXiv:2003.06975; annotations CC BY 4.0.
"""

import csv
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from filelock import FileLock

from datamodules.cache import default_cache_dir
from datamodules.cache.build import parallel
from datamodules.quarantine import first_process
from datamodules.sources.archive.download import NotFoundError, download
from datamodules.sources.coco import CocoSource
from datamodules.sources.coco_json import CocoImage
from litesort.errors import DataError
from litesort.io import atomic_path, open_text

log = logging.getLogger(__name__)

URL_KEYS = {"original": ("flickr_url", "flickr_640_url"), "small": ("flickr_640_url", "flickr_url")}
UNAVAILABLE_LIST = "unavailable.csv"  # path,reason of images that the server no longer provides
PARALLEL_DOWNLOADS = 4  # few enough for the server, enough to use a home connection fully


class TacoSource(CocoSource):
    """TACO in a folder, or in litesort's cache, downloaded on first use.

    The constructor downloads the annotations; `prepare` downloads the images, about 2 MB each. Images that the server
    no longer provides are listed in `unavailable.csv` and not requested again. Their samples are broken.

    Args:
        file: Annotations; None is annotations.json in the folder.
        root: Folder in the layout of TACO's download script; None downloads the set.
        cache_dir: Folder of the downloaded set; None is the default cache folder.
        url: URL of the annotations; None downloads nothing, images included.
        images: "original", or "small": 640 px if available, about 2 % of the bytes, with coarse crops.
        categories, margin, min_side: See `CocoSource`.
        timeout: Seconds without a response.

    Raises:
        DataError: A setting is invalid, the download fails, or the folder cannot be written.
    """

    def __init__(
        self,
        file: str | Path | None,
        root: str | Path | None,
        cache_dir: str | Path | None,
        url: str | None = None,
        images: Literal["original", "small"] = "original",
        categories: Mapping[str, str | None] | None = None,
        margin: float = 0.1,
        min_side: float = 16,
        timeout: float = 30,
    ) -> None:
        if images not in URL_KEYS:
            raise DataError(f"data.source.images={images} is invalid: expected {' or '.join(URL_KEYS)}")
        self.downloaded, self.images, self.timeout, self.offline = root is None, images, timeout, url is None
        parent = Path(cache_dir).expanduser() if cache_dir is not None else default_cache_dir()
        home = parent / f"taco-{images}" if root is None else Path(root).expanduser()
        if self.downloaded:
            self._download_list(home, url, wanted=file is None)
        super().__init__(home / "annotations.json" if file is None else file, home, categories, margin, min_side)

    def _download_list(self, home: Path, url: str | None, wanted: bool) -> None:
        target = home / "annotations.json"
        if url is None:
            if wanted and not target.exists():
                raise DataError(f"data: TACO is not in the cache, {home}: add data=taco, which downloads it")
            return
        hint = f"put the file at {target} yourself, or set data.root=FOLDER to TACO's folder"
        try:
            home.mkdir(parents=True, exist_ok=True)
            if wanted and not target.exists():
                with FileLock(f"{home}.lock"):
                    download(url, target, hint=hint, timeout=self.timeout, progress=first_process())
        except OSError as error:
            raise DataError(f"{home} cannot be written ({error.strerror or error}): set data.cache_dir") from error

    def prepare(self) -> None:
        """Download missing images, then log the number of crops."""
        if self.offline and self.downloaded:
            unavailable = _read_unavailable(self.root / UNAVAILABLE_LIST)
            if missing := self._missing(set(unavailable)):
                count = f"{len(missing)} images of TACO are"
                raise DataError(f"data: {count} not in the cache, {self.root}: add data=taco, which downloads them")
        if not self.offline and self.downloaded and self._missing(set()):
            with FileLock(f"{self.root}.lock"):  # concurrent jobs download once
                self._download_images()
        super().prepare()

    def _missing(self, unavailable: set[str]) -> list[CocoImage]:
        """Return the images that have a crop, are not on disk and are not `unavailable`."""
        needed = {sample.group: self.image(index) for index, sample in enumerate(self.samples)}
        return [i for i in needed.values() if i.name not in unavailable and not (self.root / i.name).exists()]

    def _download_images(self) -> None:
        note = self.root / UNAVAILABLE_LIST
        unavailable = _read_unavailable(note)
        missing, lock, progress = self._missing(set(unavailable)), threading.Lock(), first_process()
        hint = f"run the command again to continue, or set data.root={self.root} to use the images that are downloaded"

        def download_image(index: int) -> None:
            image, path = missing[index], self.root / missing[index].name
            reason = "has no URL"
            for url in [image.urls[key] for key in URL_KEYS[self.images] if key in image.urls]:
                try:
                    download(url, path, hint=hint, timeout=self.timeout, progress=False)
                except NotFoundError as error:
                    reason = error.reason
                else:
                    return
            with lock:
                unavailable[image.name] = reason
                _write_unavailable(note, unavailable)

        parallel(
            download_image, range(len(missing)), f"Downloading images to {self.root}", PARALLEL_DOWNLOADS, progress
        )
        if unavailable and progress:
            log.warning("data: %d images are no longer available and are left out; list: %s", len(unavailable), note)


def _read_unavailable(note: Path) -> dict[str, str]:
    if not note.exists():
        return {}
    with note.open(newline="", encoding="utf-8") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def _write_unavailable(note: Path, unavailable: Mapping[str, str]) -> None:
    with atomic_path(note) as temporary, open_text(temporary) as file:
        csv.writer(file).writerows([("path", "reason"), *unavailable.items()])
