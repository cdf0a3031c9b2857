"""Errors of Hydra, of its launchers and of the keyboard in one line."""

import pytest

from litesort.cli.launch import launch, reason


def interrupted():
    raise KeyboardInterrupt


def without_slurm():
    raise RuntimeError('Could not detect "srun", are you indeed on a slurm cluster?')


@pytest.mark.parametrize(
    ("main", "status", "line"),
    [(interrupted, 130, "interrupted"), (without_slurm, 2, "error: hydra/launcher=slurm needs")],
)
def test_an_expected_end_is_one_line(main, status, line, monkeypatch, capsys):
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


def test_reason_joins_the_lines_of_an_error():
    assert reason(ValueError("a\n  b")) == "a b"
