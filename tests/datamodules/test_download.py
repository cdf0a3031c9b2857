"""Fetching from a server that stalls, breaks off and lies; unpacking what an enemy packed."""

import hashlib
import io
import shutil
import socket
import zipfile
from collections import namedtuple

import numpy as np
import pytest

from datamodules import DataError, download
from datamodules.download import NotThereError, fetch
from datamodules.unpack import unpack

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()


@pytest.fixture
def get(server, tmp_path):
    """Fetch /file, quickly where it must wait."""
    server.files["/file"] = CONTENT

    def fetched(**options):
        options = {"mend": "do it by hand", "timeout": 5, "pause": 0, "progress": False} | options
        return fetch(server.address + "/file", tmp_path / "here" / "file.bin", **options)

    return fetched


def left(tmp_path):
    return sorted(path.name for path in (tmp_path / "here").iterdir())


def refused(get, says, **options):
    with pytest.raises(DataError, match=says) as caught:
        get(**options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(": do it by hand")
    return caught.value


def test_a_file_is_fetched_once_and_leaves_nothing_beside_it(get, server, tmp_path):
    for _ in range(2):
        assert get(sha256=hashlib.sha256(CONTENT).hexdigest(), starts=[CONTENT[:4]]).read_bytes() == CONTENT
    assert server.requests == [("/file", None)]
    assert left(tmp_path) == ["file.bin"]


def test_what_breaks_off_is_gone_on_with(get, server):
    server.faults = [{"stop": 100_000}, {"stop": 50_000}, {}]
    assert get().read_bytes() == CONTENT
    assert [place for _, place in server.requests] == [None, "bytes=100000-", "bytes=150000-"]


def test_as_long_as_something_comes_it_goes_on(get, server):
    server.faults = [{"stop": 20_000}] * 10
    assert get(tries=2).read_bytes() == CONTENT
    assert len(server.requests) == 11


def test_a_later_run_goes_on_too(get, server, tmp_path):
    server.faults = [{"stop": 100_000}]
    refused(get, "it broke off after 100000 of 300000 bytes", tries=1)
    assert not (tmp_path / "here" / "file.bin").exists()
    assert get().read_bytes() == CONTENT
    assert server.requests[-1] == ("/file", "bytes=100000-")


def test_silence_is_broken_off(get, server):
    server.faults = [{"stop": 100_000, "stall": 30}]
    assert get(timeout=0.3).read_bytes() == CONTENT
    assert server.requests[-1] == ("/file", "bytes=100000-")


def test_a_trickle_counts_as_silence(get, server):
    server.always = {"trickle": 0.02}
    refused(get, r"only \d+ bytes came in 0 s", timeout=0.2, tries=1)


def test_without_ranges_it_starts_anew(get, server):
    server.faults = [{"stop": 100_000}, {"no_range": True}]
    assert get().read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_not_glued_to_the_old_one(get, server):
    server.faults = [{"stop": 100_000}]
    refused(get, "it broke off", tries=1)
    server.files["/file"], server.etag = CONTENT[::-1], '"two"'
    assert get().read_bytes() == CONTENT[::-1]


def test_without_a_name_for_the_version_nothing_is_gone_on_with(get, server):
    server.etag, server.faults = None, [{"stop": 100_000}]
    assert get().read_bytes() == CONTENT
    assert [place for _, place in server.requests] == [None, None]


def test_another_part_than_asked_for_is_not_used(get, server):
    server.faults = [{"stop": 100_000}, {"range_lie": 7}, {}]
    assert get().read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_dropped(get, server, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / ".file.bin.part").write_bytes(bytes(400_000))
    (tmp_path / "here" / ".file.bin.tag").write_text('"one"')
    assert get().read_bytes() == CONTENT


def test_a_length_that_is_a_lie_ends(get, server, tmp_path):
    server.always = {"length": 999_999}
    refused(get, "cannot be fetched")
    assert len(server.requests) <= 8
    assert "file.bin" not in left(tmp_path)


def test_a_wrong_checksum_leaves_nothing(get, tmp_path):
    refused(get, "checksum .* expected 0000", sha256="0" * 64)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"content_type": "text/html; charset=utf-8"}, "answers with a web page"),
        ({}, "sends something else than expected: it starts with b'<html>"),
    ],
)
def test_a_page_is_no_file(get, server, tmp_path, fault, says):
    server.files["/file"], server.always = b"<html>log in</html>", fault
    refused(get, says, starts=[b"PK\3\4"])
    assert left(tmp_path) == []


def test_what_is_not_there_is_told_apart(get, server):
    del server.files["/file"]
    assert isinstance(refused(get, "answers 404"), NotThereError)
    assert len(server.requests) == 1


def test_an_overloaded_server_is_asked_again(get, server):
    server.faults = [{"status": 503}, {"status": 429}]
    assert get().read_bytes() == CONTENT
    server.always = {"status": 500}
    (get().parent / "file.bin").unlink()
    assert not isinstance(refused(get, "cannot be fetched .500"), NotThereError)


def test_an_endless_file_is_not_believed(get, server, tmp_path):
    server.always = {"endless": True, "length": None}
    refused(get, "sends more than 0 MB", largest=1_000_000)
    assert left(tmp_path) == []


def test_no_network_is_one_line(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/file"
    with pytest.raises(DataError, match=r"cannot be fetched \(Connection refused\): do it by hand"):
        fetch(address, tmp_path / "file", mend="do it by hand", pause=0, progress=False)
    with pytest.raises(DataError, match="no address to fetch from"):
        fetch("file:///etc/passwd", tmp_path / "file", mend="do it by hand")


def test_a_full_disk_is_known_before(get, monkeypatch, server):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, download.SPARE + 1000))
    refused(get, "has 100 MB of room, and 100 MB are needed")
    assert len(server.requests) == 1


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "here").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        fetch(server.address, tmp_path / "here" / "file", mend="do it by hand", progress=False)


def packed(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def test_an_archive_is_unpacked_without_what_is_hidden(tmp_path):
    names = ["a/b/1.jpg", "a/2.jpg", "a/.DS_Store", "__MACOSX/a/._2.jpg"]
    archive = packed(tmp_path / "a.zip", [(name, name.encode()) for name in names])
    folder = unpack(archive, tmp_path / "out", progress=False)
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {"a/b/1.jpg": b"a/b/1.jpg", "a/2.jpg": b"a/2.jpg"}
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "out"}


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


@pytest.mark.parametrize(
    "member",
    [".", "../evil", "a/../../evil", "/etc/evil", "..\\evil", "C:/evil", "C:evil", link("a/evil")],
    ids=str,
)
def test_no_member_leads_out_of_the_folder(tmp_path, member):
    (tmp_path / "in").mkdir()
    archive = packed(tmp_path / "in" / "a.zip", [("good", b"1"), (member, b"/etc")])
    with pytest.raises(DataError, match="leads out of its folder"):
        unpack(archive, tmp_path / "in" / "out", progress=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "a.zip"]


def test_a_bomb_is_not_unpacked(tmp_path):
    archive = packed(tmp_path / "a.zip", [(f"{i}", bytes(1 << 20)) for i in range(4)])
    with pytest.raises(DataError, match="4 files of 4 MB together: too much"):
        unpack(archive, tmp_path / "out", largest=3 << 20, progress=False)


@pytest.mark.parametrize("harm", ["text", "truncated", "flipped"])
def test_a_damaged_archive_is_deleted_and_leaves_nothing(tmp_path, harm):
    stream = io.BytesIO()
    packed(stream, [("a/1", CONTENT), ("a/2", CONTENT)])
    good = stream.getvalue()
    middle = len(good) // 3
    harmed = {"text": b"<html>", "truncated": good[:-200], "flipped": good[:middle] + b"\1\2\3" + good[middle + 3 :]}
    (tmp_path / "a.zip").write_bytes(harmed[harm])
    with pytest.raises(DataError, match="was deleted: try again") as caught:
        unpack(tmp_path / "a.zip", tmp_path / "out", progress=False)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
