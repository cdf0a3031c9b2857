"""Downloads from a server that stalls, disconnects or returns errors, and archives with hostile content."""

import contextlib
import hashlib
import io
import os
import shutil
import signal
import socket
import time
import zipfile

import numpy as np
import pytest

from datamodules.sources.archive.download import NotFoundError, download
from datamodules.sources.archive.extract import unpack
from litesort.errors import DataError

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def get(server, tmp_path, monkeypatch):
    """Download /file without pauses between attempts."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.files["/file"] = CONTENT

    def downloaded(**options):
        options = {"hint": "do it by hand", "timeout": 5, "progress": False} | options
        return download(server.address + "/file", tmp_path / "here" / "file.bin", **options)

    return downloaded


def files_left(tmp_path):
    return sorted(path.name for path in (tmp_path / "here").iterdir())


def refused(get, message, **options):
    with pytest.raises(DataError, match=message) as caught:
        get(**options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("do it by hand")
    return caught.value


def test_a_file_is_downloaded_once_and_leaves_nothing_beside_it(get, server, tmp_path):
    for _ in range(2):
        assert get(sha256=SHA256.upper()).read_bytes() == CONTENT
    assert server.requests == ["/file"]
    assert files_left(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("fault", [{"stop": 100_000}, {"status": 503}, {"status": 429}])
def test_failed_transfer_is_retried(get, server, fault):
    server.faults = [fault, fault]
    assert get().read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_last_failed_attempt_leaves_no_file(get, server, tmp_path):
    server.always = {"stop": 100_000}
    refused(get, r"cannot be downloaded to .*file.bin \(.*100000 bytes read, 200000 more expected", tries=2)
    assert len(server.requests) == 2
    assert files_left(tmp_path) == []
    server.always = {}
    assert get().read_bytes() == CONTENT


def test_a_silent_server_times_out(get, server):
    server.faults = [{"stop": 100_000, "stall": 30}]
    assert get(timeout=0.3).read_bytes() == CONTENT
    assert len(server.requests) == 2


def has_content(path):
    """Whether a file exists and is not empty; another process may remove it at the same time."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size > 0
    return False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_download_is_started_again_and_its_part_is_removed(get, server, tmp_path):
    server.faults = [{"stop": 100_000, "stall": 30}]
    child = os.fork()
    if child == 0:
        try:
            get(timeout=60)
        finally:
            os._exit(0)
    deadline = time.monotonic() + 30
    while not any(map(has_content, tmp_path.rglob("tmp*"))) and time.monotonic() < deadline:
        os.sched_yield()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert files_left(tmp_path) == [".file.bin.part"]
    assert get().read_bytes() == CONTENT
    assert files_left(tmp_path) == ["file.bin"]


def test_wrong_checksum_leaves_no_file(get, tmp_path):
    refused(get, f"expected 0000.* but got {SHA256}", sha256="0" * 64)
    assert files_left(tmp_path) == []


def test_existing_file_is_checked_and_kept(get, server, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file.bin").write_bytes(b"another")
    refused(get, f"sha256={SHA256} is not that of .*file.bin, which has .*: delete the file, or", sha256=SHA256)
    assert get().read_bytes() == b"another"
    assert server.requests == []


def test_checksum_of_the_download_is_logged(get, caplog):
    caplog.set_level("INFO")
    get(progress=True)
    assert f"has the SHA-256 {SHA256}" in caplog.text


def test_a_web_page_is_refused_at_once(get, server, tmp_path):
    server.files["/file"], server.always = b"<html>log in</html>", {"content_type": "text/html; charset=utf-8"}
    refused(get, "sends a web page instead of a file")
    assert len(server.requests) == 1
    assert files_left(tmp_path) == []


def test_missing_file_differs_from_a_server_error(get, server):
    del server.files["/file"]
    error = refused(get, "returns 404 Not Found")
    assert isinstance(error, NotFoundError)
    assert error.reason == f"{server.address}/file returns 404 Not Found"
    assert len(server.requests) == 1
    server.always = {"status": 500}
    assert not isinstance(refused(get, "500 Server Error"), NotFoundError)


def test_download_without_network_raises_data_error(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/file"
    with pytest.raises(DataError, match=r"\(Connection refused\): do it by hand"):
        download(address, tmp_path / "file", hint="do it by hand", tries=1, progress=False)
    with pytest.raises(DataError, match=r"No connection adapters .*: do it by hand"):
        download("file:///etc/passwd", tmp_path / "file", hint="do it by hand", tries=1, progress=False)


def test_unwritable_folder_raises_data_error(get, tmp_path):
    (tmp_path / "here").write_text("a file")
    refused(get, r"here/file.bin \(Not a directory\)")


def test_full_disk_raises_data_error(get, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "move", full)
    refused(get, "No space left on device")
    assert files_left(tmp_path) == []


def packed(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def test_an_archive_is_unpacked(tmp_path):
    archive = packed(tmp_path / "a.zip", [(name, name.encode()) for name in ("a/b/1.jpg", "a/2.jpg")])
    (tmp_path / ".out.part").mkdir()  # left by a killed process
    (tmp_path / ".out.part" / "old").write_bytes(b"")
    folder = unpack(archive, tmp_path / "out")
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {"a/b/1.jpg": b"a/b/1.jpg", "a/2.jpg": b"a/2.jpg"}
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "out"}


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


@pytest.mark.parametrize(
    "member", [".", "../evil", "a/../../evil", "/etc/evil", "..\\evil", "C:/evil", link("a/evil")], ids=str
)
def test_unpack_writes_only_into_its_folder(tmp_path, member):
    (tmp_path / "in").mkdir()
    archive = packed(tmp_path / "in" / "a.zip", [("good", b"1"), (member, b"/etc")])
    with contextlib.suppress(DataError):  # "." is refused, the others are unpacked inside
        unpack(archive, tmp_path / "in" / "out")
    inside = {path for path in tmp_path.rglob("*") if tmp_path / "in" / "out" in path.parents}
    assert not [path for path in inside if path.is_symlink()]
    assert {path.name for path in set(tmp_path.rglob("*")) - inside} <= {"in", "a.zip", "out"}


def test_unpack_refuses_oversized_archive(tmp_path):
    archive = packed(tmp_path / "a.zip", [(f"{i}", bytes(1 << 20)) for i in range(4)])
    with pytest.raises(DataError, match="unpacks to 4 MB, the limit is 3"):
        unpack(archive, tmp_path / "out", max_bytes=3 << 20)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_unpack_refuses_archive_with_wrong_sizes(tmp_path):
    data = packed(tmp_path / "a.zip", [("0", bytes(1 << 20))]).read_bytes()
    (tmp_path / "a.zip").write_bytes(data.replace((1 << 20).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(DataError, match="damaged"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["text", "truncated", "flipped"])
def test_damaged_archive_is_deleted_and_leaves_no_file(tmp_path, damage):
    stream = io.BytesIO()
    packed(stream, [("a/1", CONTENT), ("a/2", CONTENT)])
    good = stream.getvalue()
    middle = len(good) // 3
    damaged = {"text": b"<html>", "truncated": good[:-200], "flipped": good[:middle] + b"\1\2\3" + good[middle + 3 :]}
    (tmp_path / "a.zip").write_bytes(damaged[damage])
    with pytest.raises(DataError, match="was deleted: try again") as caught:
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
