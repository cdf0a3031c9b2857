"""The console command runs the entry points; every command line that does not compose gives a one-line error."""

import os
import subprocess
import sys
from pathlib import Path

import entry_points
import pytest

from litesort.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[2]


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_train_help_is_printed_from_another_folder(tmp_path):
    result = run("-m", "litesort.cli.main", "train", "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "litesort trains and evaluates" in result.stdout
    assert "resnet18d" in result.stdout  # from the groups of conf/
    assert list(tmp_path.iterdir()) == []


def test_arguments_reach_the_script(tmp_path):
    result = run("-m", "litesort.cli.main", "explore", "seed=3", "--cfg", "job", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "seed: 3" in result.stdout


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("trian", "error: trian is not a command: did you mean train?"),
        ("x", "error: x is not a command: choose one of train, evaluate, export, predict, explore"),
    ],
)
def test_unknown_command_is_one_line(capsys, command, line):
    with pytest.raises(SystemExit) as exit_info:
        main([command])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.splitlines() == [line]


def test_missing_script_is_one_line(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["train"], tmp_path)
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'train.py'} is missing: install from a checkout with pip install -e .\n"
    )


def test_help_lists_every_command(capsys):
    main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"  {name}" in shown and (ROOT / f"{name}.py").is_file() for name in COMMANDS)


def test_package_installs_no_entry_point_as_a_top_level_module():
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["project"]["scripts"] == {"litesort": "litesort.cli.main:main"}
    assert "py-modules" not in settings["tool"]["setuptools"]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("max_images_per_clas=3", "error: max_images_per_clas is not a setting: did you mean max_images_per_class?"),
        ("data=foldr", "error: data=foldr does not exist: did you mean folder?"),
        ("max_images_per_class=many", "error: max_images_per_class=many is invalid: expected an integer of at least 0"),
    ],
)
def test_invalid_override_of_explore_is_a_one_line_error(tmp_path, override, line):
    result = entry_points.run("explore.py", override, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [line]
