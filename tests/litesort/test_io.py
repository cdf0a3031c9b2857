import csv
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from litesort.io import atomic_path, write_csv, write_json, write_text


def test_failed_write_leaves_the_old_file_and_no_temporary_file(tmp_path):
    path = write_text(tmp_path / "new" / "metrics.json", "old")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_target_is_complete_at_every_moment(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert path.parent in temporary.parents  # on the same disk, so a rename is enough
    assert path.read_text() == "new"


def test_companions_are_never_older_than_the_main_file(tmp_path):
    path = tmp_path / "net.xml"
    for version in ("old", "new"):
        with atomic_path(path, companions=(".bin",)) as temporary:
            temporary.write_text(version)
            temporary.with_suffix(".bin").write_text(version)
    assert [file.read_text() for file in (path, tmp_path / "net.bin")] == ["new", "new"]
    with pytest.raises(FileNotFoundError), atomic_path(path, companions=(".bin",)) as temporary:
        temporary.write_text("without weights")
    assert [file.name for file in tmp_path.iterdir()] == ["net.bin"]


def test_only_writer_leaves_one_temporary_file_when_it_is_killed(tmp_path):
    program = (
        "import os, pathlib, sys; from litesort.io import atomic_path\n"
        "with atomic_path(pathlib.Path(sys.argv[1]), one_writer=True) as temporary:\n"
        "    temporary.write_text('half'); os._exit(1)"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program, tmp_path / "last.ckpt"], check=False)
    assert [file.name for file in tmp_path.iterdir()] == [".last.ckpt.tmp"]
    with atomic_path(tmp_path / "last.ckpt", one_writer=True) as temporary:
        temporary.write_text("whole")
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("links", [True, False])
def test_overwrite_false_does_not_replace_a_new_file(tmp_path, monkeypatch, links):
    def refuse(*_):
        raise PermissionError("no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "a.txt"
    with atomic_path(path, overwrite=False) as temporary:
        temporary.write_text("first")
    with pytest.raises(FileExistsError), atomic_path(path, overwrite=False) as temporary:
        temporary.write_text("second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_files_get_the_usual_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    assert write_text(tmp_path / "ours", "").stat().st_mode == plain.stat().st_mode


def test_json_is_strict_and_plain(tmp_path):
    data = {
        "f1": np.float32(0.5),
        "counts": np.array([1, 2]),
        "lost": math.nan,
        "far": -math.inf,
        "path": tmp_path,
        3: (1, None),
    }
    text = write_json(tmp_path / "a.json", data).read_text()
    read = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert read == {"f1": 0.5, "counts": [1, 2], "lost": None, "far": None, "path": str(tmp_path), "3": [1, None]}


def test_csv_survives_quotes_commas_line_ends_and_formulas(tmp_path):
    texts = ['say "hi", you', "two\nlines", "=1+1", "+experiment=x", "-3", "@cmd", "\t=1", "Ünïcode", "a;b"]
    path = write_csv(
        tmp_path / "a.csv", [{"text": text, "number": -1.5} for text in texts], ["text", "number", "missing"]
    )
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"].removeprefix("'") for row in rows] == texts
    assert not any(row["text"].startswith(("=", "+", "-", "@", "\t")) for row in rows)
    assert {row["number"] for row in rows} == {"-1.5"}
    assert {row["missing"] for row in rows} == {""}
