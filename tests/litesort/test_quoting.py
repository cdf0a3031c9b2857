"""Paths and lists of the command line reach the config unchanged."""

import pytest
from configs import composed

from litesort.cli.quoting import quote_overrides


@pytest.mark.parametrize(
    "path", [r"C:\images\a", r"a\\b", "end\\", r"a\'b", "it's", "a b (1).jpg", "a,b=c", "${x}", r"a\${x}", r"a\b${x}"]
)
def test_a_quoted_path_is_composed_unchanged(path):
    cfg = composed("predict", *quote_overrides([f"source={path}"], texts=("source",)))
    assert cfg.source == path


def test_quotes_and_sweeps_are_left_alone():
    arguments = ["source='a b'", "source=null", "seed=1"]
    assert quote_overrides(arguments, texts=("source",)) == arguments
    sweep = ["-m", "source=a,b", "format=onnx,ncnn"]
    assert quote_overrides(sweep, lists=("format",), texts=("source",)) == sweep
