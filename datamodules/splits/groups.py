"""Groups of images that must stay in one split. Pure functions."""

import re
from collections.abc import Sequence

import numpy as np

from litesort.errors import DataError


def group_ids(
    paths: Sequence[str],
    patterns: Sequence[str],
    block: int | None,
    names: Sequence[str | None],
    duplicate_ids: np.ndarray | None = None,
) -> np.ndarray:
    """Return the group of each image: (N,) int64 from 0, equal for images that must stay in one split.

    Two images share a group if the source gives them the same group, if they are duplicates, or if a pattern captures
    the same text in both paths. Groups that overlap are merged.

    Args:
        paths: Path of each image.
        patterns: Regular expressions, searched in each path. The captures, or the whole match, name the group.
        block: The last captured number is replaced by `number // block`, so that neighbours share a group.
        names: Group of each image as the source gives it, or None.
        duplicate_ids: (N,) int64, equal for duplicates; None for no grouping of duplicates.

    Raises:
        DataError: A pattern is invalid, does not match a path, or captures no number although `block` is set.

    >>> group_ids(["can9.jpg", "can11.jpg", "can12.jpg"], [r"([a-z]+)(\\d+)"], 10, [None] * 3)
    array([0, 1, 1])
    """
    keys: list[list[tuple[object, ...]]] = [[("source", name)] if name is not None else [] for name in names]
    if block is not None and not patterns:
        raise DataError(f"data.group_block={block} needs data.group_by: a regular expression that captures the number")
    for own, duplicate in zip(keys, duplicate_ids.tolist() if duplicate_ids is not None else [], strict=False):
        own.append(("duplicate", duplicate))
    for place, pattern in enumerate(patterns):
        for own, key in zip(keys, _matches(paths, pattern, block), strict=True):
            own.append((place, *key))
    return components(keys)


def _matches(paths: Sequence[str], pattern: str, block: int | None) -> list[tuple[object, ...]]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DataError(f"data.group_by={pattern} is not a regular expression: {error}") from error
    if block is not None and block < 1:
        raise DataError(f"data.group_block={block} is invalid: expected an integer of at least 1")
    keys: list[tuple[object, ...]] = []
    for path in paths:
        match = expression.search(path)
        if match is None:
            raise DataError(f"data.group_by={pattern} does not match {path!r}: it must match every path")
        parts: list[str | int | None] = list(match.groups() or (match.group(),))
        if block is not None:
            numbers = [
                i for i, part in enumerate(parts) if isinstance(part, str) and re.fullmatch(r"[0-9]{1,18}", part)
            ]
            if not numbers:
                raise DataError(
                    f"data.group_by={pattern} captures no number in {path!r}, and data.group_block={block} needs one: "
                    r"capture the digits, as in ([a-z]+)(\d+)"
                )
            parts[numbers[-1]] = int(str(parts[numbers[-1]])) // block
        keys.append(("pattern", *parts))
    return keys


def components(keys: Sequence[Sequence[tuple[object, ...]]]) -> np.ndarray:
    """Join images that share a key (union-find): (N,) int64, numbered from 0 by first appearance."""
    parent = list(range(len(keys)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[object, ...], int] = {}
    for i, own in enumerate(keys):
        for key in own:
            a, b = root(first.setdefault(key, i)), root(i)
            parent[max(a, b)] = min(a, b)
    return np.unique([root(i) for i in range(len(keys))], return_inverse=True)[1].astype(np.int64)
