"""Fetch a file over HTTP and unpack a zip file: all or nothing, going on where a broken transfer stopped.

A transfer is believed when its length is what the server said and its content what the caller expects: first bytes, and
a checksum where one is published. Until then it lies beside its place as `.NAME.part`.
"""

import hashlib
import http.client
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from datamodules import DataError

CHUNK = 1 << 16
SPARE = 100 << 20  # bytes of the disk that are left alone
SLOWEST = 1000  # bytes a second: a server that trickles would otherwise hold a run for days
REFUSED = (400, 401, 403, 404, 405, 406, 410, 451)


class NotThereError(DataError):
    """The server answers, and does not give the file."""


class _BrokeOff(Exception):
    """A transfer that may be tried again; the message is the reason."""


@dataclass(frozen=True)
class _Wanted:
    """What a transfer is checked against."""

    url: str
    path: Path
    starts: Sequence[bytes]
    sha256: str | None
    largest: int
    timeout: float

    @property
    def part(self) -> Path:
        return self.path.with_name(f".{self.path.name}.part")

    @property
    def tag(self) -> Path:
        """Holds what the server calls this version of the file: a part is gone on with only while that is the same."""
        return self.path.with_name(f".{self.path.name}.tag")

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.tag.unlink(missing_ok=True)


def fetch(
    url: str,
    path: Path,
    *,
    mend: str,
    starts: Sequence[bytes] = (),
    sha256: str | None = None,
    largest: int = 4 << 30,
    timeout: float = 30,
    tries: int = 3,
    pause: float = 1,
    progress: bool = True,
) -> Path:
    """Fetch `url` into the file `path`, unless that is there; returns `path`.

    One process at a time, please: the caller holds a lock.

    Args:
        url: http or https.
        path: its folder is made.
        mend: what the user can do instead, the end of the line of every error.
        starts: the first bytes that the file may have; () is any.
        sha256: 64 hex digits, where they are published.
        largest: bytes; a server that sends more is not believed.
        timeout: seconds without an answer, or with less than 1000 bytes a second.
        tries: in a row that bring nothing new.
        pause: seconds before the second try, doubled before each further one.
        progress: show a bar.

    Raises:
        NotThereError: the server does not have the file, or keeps it from us.
        DataError: no network, no room, or not the file that was expected.
    """
    if path.exists():
        return path
    if not url.startswith(("http://", "https://")):
        raise DataError(f"{url} is no address to fetch from, which starts with https://: {mend}")
    wanted = _Wanted(url, path, starts, sha256, largest, timeout)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _all_of(wanted, tries, pause, progress)
        _check(wanted)
        wanted.part.replace(path)
        wanted.tag.unlink(missing_ok=True)
    except DataError as error:
        raise type(error)(f"{error}: {mend}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error}): {mend}") from error
    return path


def _all_of(wanted: _Wanted, tries: int, pause: float, progress: bool) -> None:
    """Receive until the part is whole; what breaks off is gone on with."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    failed, had = 0, 0
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        while True:
            try:
                return _receive(wanted, bar)
            except _BrokeOff as error:
                has = wanted.part.stat().st_size if wanted.part.exists() else 0
                failed = 1 if has > had else failed + 1
                had = max(has, had)
                if failed >= tries:
                    raise DataError(f"{wanted.url} cannot be fetched ({error})") from error
                time.sleep(pause * 2 ** (failed - 1))


def _receive(wanted: _Wanted, bar: Progress) -> None:
    """One transfer, from where the last one stopped."""
    start = wanted.part.stat().st_size if wanted.part.exists() and wanted.tag.exists() else 0
    headers = {"User-Agent": "litesort", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": wanted.tag.read_text()}
    try:
        request = urllib.request.Request(wanted.url, headers=headers)
        with urllib.request.urlopen(request, timeout=wanted.timeout) as answer:
            start, total = _placed(wanted, answer, start)
            _room(wanted.part, (total or 0) - start)
            _store(wanted, answer, start, total, bar)
    except DataError:
        raise
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in REFUSED:
            raise NotThereError(f"{wanted.url} answers {error.code} {error.reason}") from error
        if error.code == 416:  # the part is longer than the file
            wanted.forget()
        raise _BrokeOff(f"{error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _BrokeOff(str(getattr(error.reason, "strerror", None) or error.reason)) from error
    except (http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError, ValueError) as error:
        raise _BrokeOff(f"{type(error).__name__}: {error}".rstrip(": ")) from error


def _placed(wanted: _Wanted, answer: http.client.HTTPResponse, start: int) -> tuple[int, int | None]:
    """Where the bytes of this answer belong, and how long the whole file is, None where nobody says."""
    if (answer.headers.get_content_type() or "") == "text/html":
        wanted.forget()
        raise DataError(f"{wanted.url} answers with a web page, not with the file: is there a log-in page on the way?")
    if answer.status == 206:
        unit, _, rest = (answer.headers.get("Content-Range") or "").partition(" ")
        place, _, whole = rest.partition("/")
        if unit != "bytes" or place.partition("-")[0] != str(start):
            wanted.forget()
            raise _BrokeOff("the server sends another part than it was asked for")
        return start, int(whole) if whole.isdigit() else None
    if answer.status != 200:
        raise _BrokeOff(f"{answer.status} {answer.reason}")
    wanted.forget()  # the server starts anew, because it must, or because the file is a new one
    etag = answer.headers.get("ETag") or ""
    if tag := etag if etag.startswith('"') else answer.headers.get("Last-Modified"):
        wanted.tag.write_text(tag)
    length = answer.headers.get("Content-Length") or ""
    return 0, int(length) if length.isdigit() else None


def _room(part: Path, more: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if more + SPARE > free:
        raise DataError(f"{part.parent} has {free >> 20} MB of room, and {(more + SPARE) >> 20} MB are needed")


def _store(wanted: _Wanted, answer: http.client.HTTPResponse, start: int, total: int | None, bar: Progress) -> None:
    """Append what comes until the end; a trickle counts as silence."""
    task = bar.add_task(f"Fetching {wanted.path.name}", total=total, completed=start)
    since, size, counted = time.monotonic(), start, start
    with wanted.part.open("ab") as file:
        file.truncate(start)
        while block := answer.read1(CHUNK):
            file.write(block)
            size += len(block)
            bar.update(task, completed=size)
            if size > wanted.largest:
                wanted.forget()
                raise DataError(f"{wanted.url} sends more than {wanted.largest >> 20} MB, which cannot be right")
            if (elapsed := time.monotonic() - since) > wanted.timeout:
                if size - counted < SLOWEST * elapsed:
                    raise _BrokeOff(f"only {size - counted} bytes came in {elapsed:.0f} s")
                since, counted = time.monotonic(), size
        file.flush()
        os.fsync(file.fileno())
    bar.remove_task(task)
    if total is not None and size != total:
        raise _BrokeOff(f"it broke off after {size} of {total} bytes")


def _check(wanted: _Wanted) -> None:
    """Whether the part is the file; else it is of no use."""
    hashed = hashlib.sha256()
    with wanted.part.open("rb") as file:
        head = file.read(64)
        hashed.update(head)
        while wanted.sha256 and (block := file.read(1 << 20)):
            hashed.update(block)
    if wanted.starts and not head.startswith(tuple(wanted.starts)):
        wanted.forget()
        raise DataError(f"{wanted.url} sends something else than expected: it starts with {head[:12]!r}")
    if wanted.sha256 and hashed.hexdigest() != wanted.sha256:
        wanted.forget()
        raise DataError(f"{wanted.url} sends a file of checksum {hashed.hexdigest()}, expected {wanted.sha256}")
