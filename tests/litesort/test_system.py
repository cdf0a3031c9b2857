"""Facts about the machine, and the environment of a command."""

import os

import pytest

from litesort.system import limit_openmp_spinning


def test_threads_of_openmp_sleep_soon_unless_the_environment_says_how_they_wait(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    limit_openmp_spinning()
    assert 0 < int(os.environ["GOMP_SPINCOUNT"]) < 300_000  # less than libgomp's default


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "7")])
def test_the_choice_of_the_user_stays(monkeypatch, name, value):
    monkeypatch.setattr(os, "environ", {name: value})
    limit_openmp_spinning()
    assert os.environ == {name: value}
