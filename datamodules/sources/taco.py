"""TACO, trash annotations in context: 1,500 photos with 4,784 boxes of litter, fetched from their public addresses.

Pedro Proença and Pedro Simões, 2020, https://github.com/pedropro/TACO and arXiv:2003.06975; annotations CC BY 4.0.
"""

import csv
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from filelock import FileLock

from datamodules import DataError
from datamodules.cache import default_cache_dir
from datamodules.cache_build import parallel
from datamodules.download import NotThereError, fetch
from datamodules.quarantine import first_process
from datamodules.sources.coco import CocoSource
from datamodules.sources.coco_json import Photo

log = logging.getLogger(__name__)

ADDRESSES = {"original": ("flickr_url", "flickr_640_url"), "small": ("flickr_640_url", "flickr_url")}
NOTE = "unavailable.csv"  # photos that their server no longer has
AT_ONCE = 4  # photos: polite to the server, and enough to fill a home connection


class TacoSource(CocoSource):
    """TACO in a folder, or, where none is given, in litesort's cache, fetched at first use.

    The annotations are needed to know what there is, and come when the source is built; the photos, about 2 MB each,
    when they are prepared. A photo that its server no longer has is noted in `unavailable.csv`, not asked for again,
    and broken.

    Args:
        file: the annotations; None is annotations.json in the folder.
        root: the folder, as TACO's own download fills it; None fetches.
        cache_dir: where the set is kept then; None is litesort's cache.
        url: of the annotations; None fetches nothing, photos included.
        photos: "original", or "small": 640 px where there are such, a fiftieth of the bytes, but coarse crops.
        categories, margin, min_side: see CocoSource.
        timeout: seconds without an answer.
    """

    def __init__(
        self,
        file: str | Path | None,
        root: str | Path | None,
        cache_dir: str | Path | None,
        url: str | None = None,
        photos: Literal["original", "small"] = "original",
        categories: Mapping[str, str | None] | None = None,
        margin: float = 0.1,
        min_side: float = 16,
        timeout: float = 30,
    ) -> None:
        if photos not in ADDRESSES:
            raise DataError(f"data.source.photos={photos} is not known: use {' or '.join(ADDRESSES)}")
        self.fetched, self.photos, self.timeout, self.offline = root is None, photos, timeout, url is None
        parent = Path(cache_dir).expanduser() if cache_dir is not None else default_cache_dir()
        home = parent / f"taco-{photos}" if root is None else Path(root).expanduser()
        if self.fetched:
            self._fetch_list(home, url, wanted=file is None)
        super().__init__(home / "annotations.json" if file is None else file, home, categories, margin, min_side)

    def _fetch_list(self, home: Path, url: str | None, wanted: bool) -> None:
        target = home / "annotations.json"
        if url is None:
            if wanted and not target.exists():
                raise DataError(f"data: TACO is not in the cache, {home}: add data=taco, which fetches it")
            return
        mend = f"fetch it elsewhere and put it to {target}, or give TACO's folder: data.root=FOLDER"
        try:
            home.mkdir(parents=True, exist_ok=True)
            if wanted and not target.exists():
                with FileLock(f"{home}.lock"):
                    fetch(url, target, mend=mend, starts=[b"{"], timeout=self.timeout, progress=first_process())
        except OSError as error:
            raise DataError(f"{home} cannot be written ({error.strerror or error}): set data.cache_dir") from error

    def prepare(self) -> None:
        """Fetch the photos that are not there yet, then say what became crops."""
        if self.offline and self.fetched and (missing := self._missing(set(_read_note(self.root / NOTE)))):
            count = f"{len(missing)} photos of TACO are"
            raise DataError(f"data: {count} not in the cache, {self.root}: add data=taco, which fetches them")
        if not self.offline and self.fetched and self._missing(set()):
            with FileLock(f"{self.root}.lock"):  # jobs that start together fetch once
                self._fetch_photos()
        super().prepare()

    def _missing(self, gone: set[str]) -> list[Photo]:
        """Photos that have a crop and are not on disk."""
        needed = {sample.group: self.photo(index) for index, sample in enumerate(self.samples)}
        return [p for p in needed.values() if p.name not in gone and not (self.root / p.name).exists()]

    def _fetch_photos(self) -> None:
        note = self.root / NOTE
        gone = _read_note(note)
        missing, lock, progress = self._missing(set(gone)), threading.Lock(), first_process()
        mend = f"run it again to go on, or say data.root={self.root} to use the photos that are there"

        def one(index: int) -> None:
            photo, path = missing[index], self.root / missing[index].name
            reason = "has no address"
            for url in [photo.urls[key] for key in ADDRESSES[self.photos] if key in photo.urls]:
                try:
                    fetch(url, path, mend=mend, largest=1 << 28, timeout=self.timeout, progress=False)
                except NotThereError as error:
                    reason = str(error).removesuffix(f": {mend}")
                else:
                    return
            with lock:
                gone[photo.name] = reason
                _write_note(note, gone)

        parallel(one, range(len(missing)), f"Fetching photos to {self.root}", AT_ONCE, progress)
        if gone and progress:
            log.warning("data: %d photos are no longer to be had and left out: see %s", len(gone), note)


def _read_note(note: Path) -> dict[str, str]:
    if not note.exists():
        return {}
    with note.open(newline="", encoding="utf-8") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def _write_note(note: Path, gone: Mapping[str, str]) -> None:
    scratch = note.with_name(f".{note.name}")
    with scratch.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "reason"), *gone.items()])
    scratch.replace(note)
