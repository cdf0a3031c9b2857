"""Key of a pixel cache: a hash of the contents of the images. A changed image gives a new key."""

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from datamodules.cache.build import ImageSource, parallel
from datamodules.cache.store import FORMAT
from litesort.io import atomic_path

SETTLED_NS = 2_000_000_000  # a file that was modified more recently can change again without a new time stamp
UNREADABLE = b"unreadable"


class DigestIndex:
    """Index of file digests, so that unchanged files are not read again.

    Each folder of images has one JSON file, which maps (path, box) to (size, mtime, ctime, inode, digest). If it is
    missing, damaged or not writable, digests are computed again.
    """

    def __init__(self, source: ImageSource, folder: Path) -> None:
        self.source = source
        files = [source.file(index) for index in range(len(source.samples))]
        self.files = [None if file is None else Path(file).absolute() for file in files]
        self.root = os.path.commonpath([str(file.parent) for file in self.files if file] or ["?"])
        self.path = folder / f"digests-{hashlib.sha256(self.root.encode()).hexdigest()[:16]}.json"
        self.known: dict[str, list[Any]] = {}
        with contextlib.suppress(OSError, ValueError):
            loaded = json.loads(self.path.read_bytes())
            self.known = loaded if isinstance(loaded, dict) else {}

    def key(self, size: int, policy: str, workers: int | None = None, progress: bool = True) -> str:
        """Return 32 hex digits: content and boxes of all samples in order, size, policy and format."""
        digests = self.digests(workers, progress)
        whole = hashlib.sha256(json.dumps([FORMAT, size, policy, len(digests)]).encode())
        for sample, digest in zip(self.source.samples, digests, strict=True):
            part = sample.box if sample.frame is None else (sample.box, sample.frame)
            whole.update(repr(part).encode() + b"\0" + digest)
        return whole.hexdigest()[:32]

    def digests(self, workers: int | None = None, progress: bool = True) -> list[bytes]:
        """Return the digest of content and box of each sample; `UNREADABLE` if the file cannot be opened."""
        digests: list[bytes | None] = [None] * len(self.files)
        states = [self._state(index) for index in range(len(self.files))]
        for index, (name, state) in enumerate(states):
            known = self.known.get(name)
            if state is not None and isinstance(known, list) and known[:-1] == state:
                digests[index] = bytes.fromhex(known[-1])

        def compute(index: int) -> None:
            try:
                digests[index] = self.source.digest(index)
            except OSError:
                digests[index] = UNREADABLE

        missing = [index for index, digest in enumerate(digests) if digest is None]
        parallel(compute, missing, "Reading images", workers, progress)
        self._save(missing, states, digests)
        return [digest or UNREADABLE for digest in digests]

    def _state(self, index: int) -> tuple[str, list[int] | None]:
        file = self.files[index]
        name = f"{file}|{self.source.samples[index].box}"
        try:
            status = os.stat(file) if file is not None else None  # noqa: PTH116 (twice as fast as Path.stat)
        except OSError:
            status = None
        if status is None:
            return name, None
        return name, [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]

    def _save(
        self, missing: list[int], states: list[tuple[str, list[int] | None]], digests: list[bytes | None]
    ) -> None:
        new: dict[str, list[Any]] = {}
        for index in missing:
            (name, state), digest = states[index], digests[index]
            if state is None or digest is None or digest == UNREADABLE or self._state(index)[1] != state:
                continue
            if time.time_ns() - max(state[1], state[2]) > SETTLED_NS:
                new[name] = [*state, digest.hex()]
        self.known |= new
        if new:
            with contextlib.suppress(OSError), atomic_path(self.path) as temporary:
                temporary.write_text(json.dumps(self.known))
