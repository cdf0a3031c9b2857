"""`python -m datamodules.cache`: what pixel caches there are, and away with those that are not needed."""

import argparse
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table

from datamodules import cache_file
from datamodules.cache import pixel_dir


@dataclass(frozen=True)
class Entry:
    """One cache file. size: bytes; used: when it was last opened, seconds since the epoch."""

    path: Path
    photos: int | None
    pixels: int | None
    source: str
    size: int
    used: float


def entries(folder: Path) -> list[Entry]:
    """Return the cache files in a folder, last used first; a damaged one has no counts."""
    found = []
    for path in folder.glob("*.pixels"):
        try:
            status, header = path.stat(), cache_file.read_header(path)
        except OSError:
            continue
        photos, pixels = header["shape"][:2] if header else (None, None)
        source = header["source"] if header else "damaged: will be built again"
        found.append(Entry(path, photos, pixels, source, status.st_size, status.st_mtime))
    return sorted(found, key=lambda entry: -entry.used)


def doomed(found: list[Entry], older_than: float | None, max_gb: float | None, now: float) -> list[Entry]:
    """Return what to delete: not used for `older_than` days, or beyond `max_gb` GB counted from the last used on."""
    chosen, total = [], 0.0
    for entry in found:
        total += entry.size / 1e9
        too_old = older_than is not None and now - entry.used > older_than * 86400
        if too_old or (max_gb is not None and total > max_gb):
            chosen.append(entry)
            total -= entry.size / 1e9
    return chosen


def remove(entry: Entry) -> bool:
    """Delete one cache file; a job that reads it keeps its map. False where it is just being built again."""
    lock = FileLock(f"{entry.path}.lock")
    try:
        with lock.acquire(timeout=0):
            entry.path.unlink(missing_ok=True)
            Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: who waits for it then starts over
    except (Timeout, OSError):
        return False
    return True


def remove_leftovers(folder: Path) -> None:
    """Delete what killed builds left behind: unfinished files whose lock nobody holds, and the locks themselves."""
    for temporary in folder.glob(".*.pixels.*.tmp"):
        name = temporary.name[1:].rsplit(".", 2)[0]
        lock = FileLock(str(folder / f"{name}.lock"))
        with suppress(Timeout, OSError), lock.acquire(timeout=0):
            temporary.unlink(missing_ok=True)
            Path(lock.lock_file).unlink(missing_ok=True)


def table(found: list[Entry], gone: list[Entry], folder: Path, now: float) -> Table:
    """Return the list for the terminal."""
    shown = Table(title=f"Pixel caches in {folder}", title_justify="left")
    for name in ("file", "photos", "px", "MB", "unused for", "source", ""):
        shown.add_column(name, justify="right" if name in ("photos", "px", "MB", "unused for") else "left")
    for entry in found:
        unused = (now - entry.used) / 86400
        shown.add_row(
            entry.path.name,
            *("?" if value is None else f"{value:,}" for value in (entry.photos, entry.pixels)),
            *(f"{entry.size / 1e6:,.1f}", f"{unused:.1f} days", entry.source),
            "removed" if entry in gone else "",
        )
    return shown


def main(argv: list[str] | None = None) -> None:
    """List the pixel caches; delete those that the options name."""
    parser = argparse.ArgumentParser(prog="python -m datamodules.cache", description=__doc__)
    parser.add_argument("--dir", metavar="FOLDER", help="the data.cache_dir to look at (default: the usual place)")
    parser.add_argument("--clean", action="store_true", help="remove all of them, and what killed builds left")
    parser.add_argument("--older-than", type=float, metavar="DAYS", help="remove those not used for so long")
    parser.add_argument("--max-gb", type=float, metavar="GB", help="keep the last used ones, up to so much")
    options = parser.parse_args(argv)
    folder, now = pixel_dir(options.dir), time.time()
    found = entries(folder)
    chosen = found if options.clean else doomed(found, options.older_than, options.max_gb, now)
    gone = [entry for entry in chosen if remove(entry)]
    if options.clean:
        for index in [*folder.glob("digests-*.json"), *folder.glob(".digests-*.tmp")]:
            index.unlink(missing_ok=True)
    if gone or options.clean:
        remove_leftovers(folder)
    console = Console()
    console.print(table(found, gone, folder, now) if found else f"No pixel caches in {folder}.")
    if found:
        kept = sum(entry.size for entry in found if entry not in gone)
        console.print(f"{(sum(entry.size for entry in gone)) / 1e6:,.1f} MB removed, {kept / 1e6:,.1f} MB kept.")
