"""`python -m datamodules.cache`: list, clean or verify pixel caches."""

import argparse
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import track
from rich.table import Table

from datamodules.cache import pixel_dir, store


@dataclass(frozen=True)
class Entry:
    """One cache.

    Attributes:
        path: Folder of the cache.
        images: Number of images; None if the cache is damaged.
        pixels: Side of the images, px; None if the cache is damaged.
        source: Folder of the images.
        size: Bytes.
        used: Time of last use, seconds since the epoch.
    """

    path: Path
    images: int | None
    pixels: int | None
    source: str
    size: int
    used: float


def entries(folder: Path) -> list[Entry]:
    """Return the caches in a folder, most recently used first."""
    found = []
    for path in folder.glob("[!.]*px-*"):
        with suppress(OSError):
            if path.is_dir():
                pixels = store.read(path)
                images, side = pixels.array.shape[:2] if pixels else (None, None)
                root = pixels.root if pixels else "damaged: built again at next use"
                size = sum(file.stat().st_size for file in path.iterdir())
                found.append(Entry(path, images, side, root, size, path.stat().st_mtime))
    return sorted(found, key=lambda entry: -entry.used)


def unneeded(found: list[Entry], older_than: float | None, max_gb: float | None, now: float) -> list[Entry]:
    """Return the caches to delete: not used for `older_than` days, or beyond `max_gb` GB in order of last use."""
    chosen, total = [], 0.0
    for entry in found:
        total += entry.size / 1e9
        too_old = older_than is not None and now - entry.used > older_than * 86400
        if too_old or (max_gb is not None and total > max_gb):
            chosen.append(entry)
            total -= entry.size / 1e9
    return chosen


def remove(entry: Entry) -> bool:
    """Delete one cache. Running jobs keep their memory map.

    Returns:
        False if another process is building this cache, or if the folder cannot be deleted.
    """
    lock = FileLock(f"{entry.path}.lock")
    try:
        with lock.acquire(timeout=0):
            shutil.rmtree(entry.path)
            # deleted while the lock is held, so that waiting processes lock a new file
            Path(lock.lock_file).unlink(missing_ok=True)
    except (Timeout, OSError):
        return False
    return True


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left: unfinished digest files, unfinished caches and their unused lock files."""
    for scratch in folder.glob(".digests-*.tmp"):
        shutil.rmtree(scratch, ignore_errors=True)
    for scratch in folder.glob(".*px-*.tmp"):
        lock = FileLock(str(folder / f"{scratch.name[1:].removesuffix('.tmp')}.lock"))
        with suppress(Timeout, OSError), lock.acquire(timeout=0):
            shutil.rmtree(scratch)
            Path(lock.lock_file).unlink(missing_ok=True)


def verify(found: list[Entry]) -> list[Entry]:
    """Read all pixels of all caches and return the damaged caches."""
    bars = track(found, "Reading pixels", console=Console(stderr=True))
    return [entry for entry in bars if store.damaged_rows(entry.path) != []]


def table(found: list[Entry], removed: list[Entry], folder: Path, now: float) -> Table:
    """Return the table for the terminal."""
    shown = Table(title=f"Pixel caches in {folder}", title_justify="left")
    for name in ("cache", "images", "px", "MB", "unused for", "source", ""):
        shown.add_column(name, justify="right" if name in ("images", "px", "MB", "unused for") else "left")
    for entry in found:
        unused = (now - entry.used) / 86400
        shown.add_row(
            entry.path.name,
            *("?" if value is None else f"{value:,}" for value in (entry.images, entry.pixels)),
            *(f"{entry.size / 1e6:,.1f}", f"{unused:.1f} days", entry.source),
            "removed" if entry in removed else "",
        )
    return shown


def main(argv: list[str] | None = None) -> None:
    """List, clean or verify pixel caches. The exit status is 1 if `verify` finds a damaged cache."""
    parser = argparse.ArgumentParser(prog="python -m datamodules.cache", description=__doc__)
    commands = "list (default); clean: delete all or selected caches; verify: read all caches and delete damaged ones"
    parser.add_argument("command", nargs="?", choices=("list", "clean", "verify"), default="list", help=commands)
    parser.add_argument("--dir", metavar="FOLDER", help="value of data.cache_dir (default: the default cache folder)")
    parser.add_argument("--older-than", type=float, metavar="DAYS", help="delete caches that were not used for DAYS")
    parser.add_argument(
        "--max-gb", type=float, metavar="GB", help="keep the most recently used caches up to GB, delete the others"
    )
    options = parser.parse_args(argv)
    limited = options.older_than is not None or options.max_gb is not None
    if limited and options.command != "clean":
        parser.error(f"--older-than and --max-gb require the command clean: {parser.prog} clean --max-gb 20")
    folder, now = pixel_dir(options.dir), time.time()
    found, chosen = entries(folder), []
    if options.command == "verify":
        chosen = verify(found)
    elif options.command == "clean":
        chosen = unneeded(found, options.older_than, options.max_gb, now) if limited else found
    removed = [entry for entry in chosen if remove(entry)]
    if options.command == "clean":
        for index in [] if limited else folder.glob("digests-*.json"):
            index.unlink(missing_ok=True)
        remove_leftovers(folder)
    console = Console(markup=False)  # a path may contain square brackets
    console.print(table(found, removed, folder, now) if found else f"No pixel caches in {folder}.")
    if found:
        kept = sum(entry.size for entry in found if entry not in removed)
        console.print(f"{sum(entry.size for entry in removed) / 1e6:,.1f} MB removed, {kept / 1e6:,.1f} MB kept.")
    if options.command == "verify":
        console.print(f"{len(chosen)} of {len(found)} caches damaged.")
        raise SystemExit(1 if chosen else 0)


if __name__ == "__main__":
    main()
