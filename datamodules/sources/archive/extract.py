"""Unzip an archive that somebody else made: all or nothing, and nowhere but into its folder."""

import shutil
import zipfile
import zlib
from pathlib import Path

import pooch

from litesort.errors import DataError

MAX_BYTES = 20 << 30  # unpacked


def unpack(archive: Path, folder: Path, *, max_bytes: int = MAX_BYTES) -> Path:
    """Unzip into `folder`, which must not exist; return it. The caller holds a lock.

    `zipfile` takes drives, roots and ".." out of names, writes links as plain files, and writes no more bytes of a
    member than the archive declares. So nothing lands outside the folder, and `max_bytes` bounds what is written.

    Raises:
        DataError: no zip file or a damaged one (it is deleted), more than `max_bytes`, or no room.
    """
    scratch = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
        with zipfile.ZipFile(archive) as opened:
            size = sum(member.file_size for member in opened.infolist())
        if size > max_bytes:
            raise DataError(
                f"{archive} unpacks to {size >> 20} MB, the limit is {max_bytes >> 20}: use another archive"
            )
        pooch.Unzip(extract_dir=str(scratch.absolute()))(str(archive), "download", None)
        scratch.rename(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        archive.unlink(missing_ok=True)
        raise DataError(f"{archive} is no zip file, or damaged ({error}), and was deleted: try again") from error
    except OSError as error:
        raise DataError(f"{archive} cannot be unpacked ({error.strerror or error}): make room at {folder}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder
