"""Unzip an untrusted archive: completely or not at all, and only into its folder."""

import shutil
import zipfile
import zlib
from pathlib import Path

import pooch

from litesort.errors import DataError

MAX_BYTES = 20 << 30  # unpacked size


def unpack(archive: Path, folder: Path, *, max_bytes: int = MAX_BYTES) -> Path:
    """Unzip into `folder`, which must not exist, and return it. The caller holds a lock.

    `zipfile` removes drives, roots and ".." from names, writes links as regular files, and writes no more bytes of a
    member than the archive declares. So no file is written outside of the folder, and `max_bytes` limits the total.

    Raises:
        DataError: The file is not a zip file or is damaged (it is deleted), unpacks to more than `max_bytes`, or the
            disk fails.
    """
    scratch = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # left by a killed process
        with zipfile.ZipFile(archive) as opened:
            size = sum(member.file_size for member in opened.infolist())
        if size > max_bytes:
            raise DataError(
                f"{archive} unpacks to {size >> 20} MB, the limit is {max_bytes >> 20} MB: use another archive"
            )
        pooch.Unzip(extract_dir=str(scratch.absolute()))(str(archive), "download", None)
        scratch.rename(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        archive.unlink(missing_ok=True)
        raise DataError(f"{archive} is not a zip file or is damaged ({error}) and was deleted: try again") from error
    except OSError as error:
        raise DataError(
            f"{archive} cannot be unpacked ({error.strerror or error}): free disk space at {folder}"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder
