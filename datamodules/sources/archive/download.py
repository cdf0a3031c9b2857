"""Download a file with pooch: checksum, retries, time-out, progress bar, atomic result, one-line errors."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pooch

from litesort.errors import DataError

log = logging.getLogger(__name__)

RETRIED_STATUS = (408, 425, 429)  # 4xx status codes that are retried; the others are final


class NotFoundError(DataError):
    """The server does not provide the file (status 4xx). `reason` is the message without the hint."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(f"{reason}: {hint}")
        self.reason = reason


class _Refused(Exception):
    """A response that would be the same on a retry."""


class _NotFound(_Refused):
    """A response with a final status 4xx: the server does not provide the file."""


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
    """Download `url` to `path`, unless it exists. The caller holds a lock.

    The file is written to a hidden folder beside `path` and moved when it is complete. If the process is killed, the
    next call deletes the hidden folder and starts again.

    Args:
        url: http or https.
        path: Target file; its folder is created.
        hint: What the user can do instead, appended to each error.
        sha256: 64 hex digits, also checked if `path` exists; None logs the checksum of the download.
        timeout: Seconds without a response.
        tries: Number of attempts.
        progress: Show a progress bar.

    Returns:
        `path`.

    Raises:
        NotFoundError: The server does not provide the file.
        DataError: The network or the disk fails, or the checksum is wrong.
    """
    if path.exists():
        if sha256 and (found := pooch.file_hash(str(path))) != sha256.lower():
            raise DataError(f"sha256={sha256} is not that of {path}, which has {found}: delete the file, or {hint}")
        return path
    scratch = path.with_name(f".{path.name}.part")
    pooch.get_logger().setLevel("WARNING")
    client = pooch.HTTPDownloader(progress, timeout=timeout, hooks={"response": _check_response})
    fetcher = pooch.create(scratch, "", registry={path.name: sha256}, urls={path.name: url}, retry_if_failed=tries - 1)
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # left by a killed process
        scratch.mkdir(parents=True)
        Path(fetcher.fetch(path.name, downloader=client)).replace(path)
    except _NotFound as error:
        raise NotFoundError(f"{url} {error}", hint) from error
    # requests raises an OSError, and pooch a ValueError for a wrong checksum
    except (_Refused, OSError, ValueError) as error:
        raise DataError(f"{url} cannot be downloaded to {path} ({_reason(error)}): {hint}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if sha256 is None and progress:
        log.info("data: %s has the SHA-256 %s", path, pooch.file_hash(str(path)))
    return path


def _check_response(response: Any, **_: Any) -> None:
    """Raise for responses that are not retried. A hook of requests, called for each response, including redirects."""
    if response.is_redirect:
        return
    if not response.ok:
        response.close()  # raise_for_status does not close it
    if 400 <= response.status_code < 500 and response.status_code not in RETRIED_STATUS:
        raise _NotFound(f"returns {response.status_code} {response.reason}")
    if response.ok and response.headers.get("Content-Type", "").startswith("text/html"):
        response.close()
        raise _Refused("the server sends a web page instead of a file, e.g. for a log-in")


def _reason(error: BaseException) -> str:
    """Return the innermost error in one line; requests and urllib3 wrap it several times."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())[:300]
