"""A reader of W&B's offline files: a 7-byte header, then LevelDB's log format, whose records are protobuf messages."""

import json
import struct
import time
from pathlib import Path
from typing import Any

from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32768
HEADER = 7  # bytes: of the file, and of each chunk (checksum 4, length 2, kind 1)


def records(path: Path) -> list[Record]:
    """Read all complete records of a file."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    found, parts, at = [], b"", HEADER
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK  # a chunk header does not fit into the rest of the block
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        if at + HEADER + length > len(data):
            break  # this chunk is still being written
        parts += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # a whole record, or the last chunk of one
            found.append(Record.FromString(parts))
            parts = b""
    return found


class OfflineRun:
    """Content of a run folder's offline run: config, history (all keys), summary and the fields of the run record."""

    def __init__(self, folder: Path, first: bool = False) -> None:
        paths = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
        assert len(paths) == 1 or first
        self.path = paths[0]
        self.artifacts: dict[str, Path] = {}
        self.logged: dict[str, Any] = {}  # artifacts by name, as recorded
        self.files = self.path.parent / "files"
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.exit_code: int | None = None
        deadline = time.monotonic() + 20
        while not (found := records(self.path)) or not any(record.HasField("exit") for record in found):
            assert time.monotonic() < deadline, "the run was never finished"
            time.sleep(0.05)  # W&B's service writes the last record after finish() returns
        for record in found:
            if record.HasField("run"):
                self.run = record.run
                self._update(self.config, record.run.config.update)
            elif record.HasField("config"):
                self._update(self.config, record.config.update)
            elif record.HasField("history"):
                self.history.append(self._update({}, record.history.item))
                self.summary.update(self.history[-1])
            elif record.HasField("summary"):
                self._update(self.summary, record.summary.update)
            elif record.HasField("artifact"):
                self._add_artifact(record.artifact)
            elif record.request.HasField("log_artifact"):
                self._add_artifact(record.request.log_artifact.artifact)
            elif record.HasField("exit"):
                self.exit_code = record.exit.exit_code

    def values(self, key: str) -> list[Any]:
        return [row[key] for row in self.history if key in row]

    def table(self, key: str) -> dict[str, Any]:
        """A logged table, from its artifact: the copy among the run's files has "Image" in place of each image."""
        assert (self.files / self.values(f"{key}/path")[-1]).is_file()
        return json.loads(self.artifacts[f"{key}.table.json"].read_text())

    def picture(self, path: str) -> Image.Image:
        return Image.open(self.files / path)

    def artifact_picture(self, path: str) -> Image.Image:
        """An image of a table; the artifact's manifest names its local path."""
        return Image.open(self.artifacts[path])

    def _add_artifact(self, artifact: Any) -> None:
        self.logged[artifact.name] = artifact
        self.artifacts.update((entry.path, Path(entry.local_path)) for entry in artifact.manifest.contents)

    @staticmethod
    def _update(into: dict[str, Any], items: Any) -> dict[str, Any]:
        for item in items:
            into["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        return into
