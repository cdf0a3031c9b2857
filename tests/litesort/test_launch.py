"""Ctrl-C and errors of Hydra and its launchers are printed in one line."""

import sys

import pytest

from litesort.cli.launch import describe_error, launch


def interrupted():
    raise KeyboardInterrupt


def without_slurm():
    raise RuntimeError('Could not detect "srun", are you indeed on a slurm cluster?')


@pytest.mark.parametrize(
    ("main", "status", "line"),
    [(interrupted, 130, "interrupted"), (without_slurm, 2, "error: hydra/launcher=slurm needs")],
)
def test_ctrl_c_and_launcher_errors_are_one_line(main, status, line, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(SystemExit) as ended:
        launch(main)
    assert ended.value.code == status
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_an_unexpected_error_keeps_its_traceback(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(ZeroDivisionError):
        launch(lambda: 1 / 0)


def test_an_error_of_several_lines_becomes_one_line():
    assert describe_error(ValueError("a\n  b")) == "a b"


def test_launch_expands_a_glob_of_experiments(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr("sys.argv", ["train.py", "-m", "experiment=glob(compress/0*)"])
    launch(lambda: None)
    assert sys.argv[:2] == ["train.py", "-m"]
    assert sys.argv[2].startswith("experiment=compress/01_resnet18d,compress/02_teacher,")
