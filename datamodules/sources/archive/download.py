"""Download a file with pooch: checksum, retries, time-out and progress bar; all or nothing, and errors of one line."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pooch

from litesort.errors import DataError

log = logging.getLogger(__name__)

TRY_AGAIN = (408, 425, 429)  # of the 4xx answers; the others are final


class NotFoundError(DataError):
    """The server answers, but does not give the file; `reason` is the message without the hint."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(f"{reason}: {hint}")
        self.reason = reason


class _Refused(Exception):
    """An answer that another try does not change."""


class _NotFound(_Refused):
    """An answer that says that there is no such file."""


def download(
    url: str,
    path: Path,
    *,
    hint: str,
    sha256: str | None = None,
    timeout: float = 30,
    tries: int = 3,
    progress: bool = True,
) -> Path:
    """Download `url` to `path`, unless that exists; return `path`. The caller holds a lock.

    The file is written to a hidden folder beside `path` and moved when it is complete. What a killed process leaves
    there is deleted by the next call, which starts again.

    Args:
        url: http or https.
        path: its folder is made.
        hint: what the user can do instead; the end of each error.
        sha256: 64 hex digits, checked also where `path` exists; None logs those of the download.
        timeout: seconds without an answer.
        tries: how often a transfer is started.
        progress: show a bar.

    Raises:
        NotFoundError: the server does not have the file, or does not give it.
        DataError: no network, no room, or another file than expected.
    """
    if path.exists():
        if sha256 and (found := pooch.file_hash(str(path))) != sha256.lower():
            raise DataError(f"sha256={sha256} is not that of {path}, which has {found}: delete the file, or {hint}")
        return path
    scratch = path.with_name(f".{path.name}.part")
    pooch.get_logger().setLevel("WARNING")
    client = pooch.HTTPDownloader(progress, timeout=timeout, hooks={"response": _check_answer})
    fetcher = pooch.create(scratch, "", registry={path.name: sha256}, urls={path.name: url}, retry_if_failed=tries - 1)
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
        scratch.mkdir(parents=True)
        Path(fetcher.fetch(path.name, downloader=client)).replace(path)
    except _NotFound as error:
        raise NotFoundError(f"{url} {error}", hint) from error
    except (_Refused, OSError, ValueError) as error:  # requests raises an OSError, a wrong checksum a ValueError
        raise DataError(f"{url} cannot be downloaded to {path} ({_reason(error)}): {hint}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if sha256 is None and progress:
        log.info("data: %s has the SHA-256 %s", path, pooch.file_hash(str(path)))
    return path


def _check_answer(response: Any, **_: Any) -> None:
    """Refuse at once what another try does not change; requests calls this once per answer, redirects included."""
    if response.is_redirect:
        return
    if not response.ok:
        response.close()  # raise_for_status leaves it open
    if 400 <= response.status_code < 500 and response.status_code not in TRY_AGAIN:
        raise _NotFound(f"answers {response.status_code} {response.reason}")
    if response.ok and response.headers.get("Content-Type", "").startswith("text/html"):
        response.close()
        raise _Refused("the server sends a web page: is a log-in needed?")


def _reason(error: BaseException) -> str:
    """The innermost error in one line: requests and urllib3 wrap it several times."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())[:300]
