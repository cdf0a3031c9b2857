"""Benchmarks that need a GPU, at a tiny size on the CPU."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL = "--device cpu --models resnet10t --sizes 32 --batch 4 --steps 2 --warmup 1 --images 36 --workers 0 --no-compile"


@pytest.fixture
def gpu(monkeypatch):
    """The module of benchmarks/gpu.py, which imports other modules of its folder."""
    pytest.importorskip("torchvision")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu")


def test_gpu_benchmark_fills_every_table_on_a_cpu(gpu, capsys):
    tables = gpu.run(gpu.arguments(SMALL.split()))
    assert [table.row_count for table in tables] == [1, 1, 1, 1, 1, 2]
    cells = [cell for table in tables for column in table.columns for cell in column.cells]
    assert all(cells)
    assert not [cell for cell in cells if "Error" in cell and "onnxruntime" not in cell]
    assert "litesort / bare" in capsys.readouterr().out


def test_gpu_benchmark_stops_at_the_time_limit(gpu):
    (table,) = gpu.run(gpu.arguments([*SMALL.split(), "--parts", "feed", "--sizes", "32", "48", "--minutes", "0"]))
    assert table.row_count == 1
    assert "incomplete" in table.caption
