"""Data that is too large or nested too deep is refused before it is expanded."""

import json

import pytest

from litesort.plain_data import MAX_DEPTH, check_size, parse_json, parse_yaml

ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
)  # 10 ** 30 values
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 30))
ONE_ALIAS = "a: &a [1]\nb: *a\n"


def shared(levels: int = 30) -> list:
    """A nested structure of 10 ** levels values that takes a few hundred bytes."""
    node: list = [0]
    for _ in range(levels):
        node = [node] * 10
    return node


def looped() -> dict:
    """A structure that contains itself."""
    node: dict = {}
    node["again"] = {"deeper": [node]}
    return node


@pytest.mark.parametrize(
    "make", [shared, looped, lambda: {"a": (1, shared()), "b": 1}], ids=["shared", "loop", "inside"]
)
def test_structures_that_repeat_or_contain_themselves_are_refused(make):
    with pytest.raises(ValueError, match=r"more than .* (values|levels)"):
        check_size(make())


def test_check_size_accepts_a_few_shared_lists():
    assert check_size([shared(3)] * 3) is None


@pytest.mark.parametrize("text", [ALIASES, MERGES, ONE_ALIAS], ids=["sequences", "merge keys", "one"])
def test_yaml_aliases_are_refused(text):
    with pytest.raises(ValueError, match="aliases"):
        parse_yaml(text)


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 90 + "]" * 90, "{a: " * 90 + "1" + "}" * 90, "- " * 5_000])
def test_deep_yaml_is_refused(text):
    with pytest.raises(ValueError, match=r"nested|not YAML") as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


def test_huge_yaml_is_refused():
    with pytest.raises(ValueError, match="more than"):
        parse_yaml("[" + "1," * 300_000 + "]")


@pytest.mark.parametrize(
    "text", ["[" * 1_000_000, "[" * 90 + "]" * 90, '{"a":' * 90 + "1" + "}" * 90, "", "{", "1" * 9999]
)
def test_deep_or_damaged_json_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_valid_json_and_yaml_are_read():
    data = {"a": [1, 2.5, None, True, "x"], "b": {"c": []}}
    assert parse_json(json.dumps(data)) == data
    assert parse_yaml("a: [1, 2.5, null, true, x]\nb: {c: []}\n") == data
    nested: list = []
    for _ in range(MAX_DEPTH - 2):
        nested = [nested]
    assert parse_json(json.dumps(nested)) == nested
