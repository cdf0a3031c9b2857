"""Run folders from untrusted sources: a file that is nested too deeply or expands too far counts as unreadable."""

import json

import pytest

from reports.html.leaderboard import write_page
from reports.results import gather
from reports.run_folder import read_config, read_mistakes

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)  # 9 ** 30 values
DEEP = "[" * 100_000


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"status": "completed", "model": "m", "test/f1_macro": 0.5}))
    return folder


@pytest.mark.parametrize("text", [BOMB, DEEP, "{a: " * 500])
def test_config_that_expands_or_is_too_deep_is_empty(run, text):
    (run / "config.yaml").write_text(text)
    assert read_config(run) == {}
    assert "m" in write_page(gather(run.parent), run.parent / "page.html").read_text()


def test_mistakes_and_export_report_that_are_too_deep_are_empty(run):
    (run / "mistakes.json").write_text('{"mistakes": ' + DEEP)
    (run / "exported").mkdir()
    (run / "exported" / "export.json").write_text('{"rows": ' + "[" * 90 + "]" * 90 + "}")
    assert read_mistakes(run) == []
    assert [row["model"] for row in gather(run.parent)] == ["m"]


@pytest.mark.parametrize("text", [DEEP, "[" * 90 + "]" * 90])
def test_metrics_that_are_too_deep_are_a_failed_row(run, text):
    (run / "metrics.json").write_text(text)
    (row,) = gather(run.parent)
    assert row["status"] == "failed"
    assert "cannot be read" in row["error"]


def test_overrides_that_expand_are_empty(run):
    (run / "metrics.json").unlink()
    (run / ".hydra" / "overrides.yaml").write_text(BOMB)
    (row,) = gather(run.parent)
    assert row["overrides"] == []
