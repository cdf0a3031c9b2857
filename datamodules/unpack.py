"""Unpack a zip file that somebody else made: all or nothing, and nowhere but into the folder that is meant."""

import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.progress import track

from datamodules import DataError

LARGEST = 20 << 30  # bytes, unpacked
MOST = 1_000_000  # members


def unpack(archive: Path, folder: Path, *, largest: int = LARGEST, progress: bool = True) -> Path:
    """Unpack into `folder`, which must not be there yet; hidden files and what macOS adds are left out.

    Raises:
        DataError: no zip file, a damaged one (it is then deleted, to be fetched again), one that would write outside
            the folder or hold links, one of more than `largest` bytes, or no room.
    """
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(archive, opened, largest)
            for member, path in track(
                members, f"Unpacking {archive.name}", console=Console(stderr=True), disable=not progress
            ):
                target = scratch / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, target.open("xb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
        scratch.rename(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        archive.unlink(missing_ok=True)
        raise DataError(f"{archive} is no zip file, or damaged ({error}), and was deleted: try again") from error
    except OSError as error:
        raise DataError(f"{archive} cannot be unpacked into {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _members(archive: Path, opened: zipfile.ZipFile, largest: int) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The files to unpack and where each goes; refuses what no honest archive holds."""
    members = [member for member in opened.infolist() if not member.is_dir()]
    total = sum(member.file_size for member in members)
    if total > largest or len(members) > MOST:
        raise DataError(f"{archive} would unpack to {len(members)} files of {total >> 20} MB together: too much")
    if total > shutil.disk_usage(archive.parent).free:
        raise DataError(f"{archive} would unpack to {total >> 20} MB, more than there is room for: make room")
    chosen = []
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if (
            not path.name
            or path.is_absolute()
            or ".." in path.parts
            or ":" in path.parts[0]
            or stat.S_ISLNK(member.external_attr >> 16)
        ):
            raise DataError(f"{archive} holds {member.filename!r:.100}, which leads out of its folder: do not use it")
        if not any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
            chosen.append((member, path))
    return chosen
