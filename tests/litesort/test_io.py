import csv
import json
import math
import os

import numpy as np
import pytest

from litesort.io import replacing, write_csv, write_json, write_text


def test_failed_write_leaves_the_old_file_and_no_temporary_file(tmp_path):
    path = write_text(tmp_path / "new" / "metrics.json", "old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_target_is_complete_at_every_moment(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # else the replacement would be a copy
    assert path.read_text() == "new"


@pytest.mark.parametrize("links", [True, False])
def test_overwrite_false_does_not_replace_a_new_file(tmp_path, monkeypatch, links):
    def refuse(*_):
        raise PermissionError("no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "a.txt"
    with replacing(path, overwrite=False) as temporary:
        temporary.write_text("first")
    with pytest.raises(FileExistsError), replacing(path, overwrite=False) as temporary:
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
    nasty = ['say "hi", you', "two\nlines", "=1+1", "+experiment=x", "-3", "@cmd", "\t=1", "Ünïcode", "a;b"]
    path = write_csv(
        tmp_path / "a.csv", [{"text": text, "number": -1.5} for text in nasty], ["text", "number", "missing"]
    )
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"].removeprefix("'") for row in rows] == nasty
    assert not any(row["text"].startswith(("=", "+", "-", "@", "\t")) for row in rows)
    assert {row["number"] for row in rows} == {"-1.5"}
    assert {row["missing"] for row in rows} == {""}
