"""Waiting OpenMP threads sleep soon, unless the user has set how they wait."""

import os

import pytest

from litesort.system import limit_openmp_spinning


def test_openmp_threads_spin_for_less_than_the_default(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    limit_openmp_spinning()
    assert 0 < int(os.environ["GOMP_SPINCOUNT"]) < 300_000  # less than libgomp's default


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "7")])
def test_settings_of_the_user_are_kept(monkeypatch, name, value):
    monkeypatch.setattr(os, "environ", {name: value})
    limit_openmp_spinning()
    assert os.environ == {name: value}
