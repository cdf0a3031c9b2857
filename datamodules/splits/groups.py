"""Which photos belong together, and so must never lie on two sides of a split; pure functions."""

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
    """Number the groups of photos: (N,) int64, equal where two photos must stay on one side.

    Photos belong together if the source says so, or show the same, or if a pattern finds the same text in their paths,
    or through a chain of these.

    Args:
        paths: of all photos.
        patterns: regular expressions that are searched in each path; captures, else the whole match, name a group.
        block: the last capture that is a number counts by `number // block`, so that neighbours share a group.
        names: groups that the source gives, None for a photo that it leaves alone.
        duplicate_ids: (N,) int64, equal for photos that show the same.

    Raises:
        DataError: no such expression, a path it does not match, or no number to make blocks of.

    >>> group_ids(["can9.jpg", "can11.jpg", "can12.jpg"], [r"([a-z]+)(\\d+)"], 10, [None] * 3)
    array([0, 1, 1])
    """
    keys: list[list[tuple[object, ...]]] = [[("source", name)] if name is not None else [] for name in names]
    if block is not None and not patterns:
        raise DataError(f"data.group_block={block} needs data.group_by: a regular expression that captures the number")
    for own, twin in zip(keys, duplicate_ids.tolist() if duplicate_ids is not None else [], strict=False):
        own.append(("twin", twin))
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
        raise DataError(f"data.group_block={block} must be at least 1: photos a block")
    keys: list[tuple[object, ...]] = []
    for path in paths:
        match = expression.search(path)
        if match is None:
            raise DataError(f"data.group_by={pattern} finds nothing in {path!r}: make it match every path")
        parts: list[str | int | None] = list(match.groups() or (match.group(),))
        if block is not None:
            numbers = [
                i for i, part in enumerate(parts) if isinstance(part, str) and re.fullmatch(r"[0-9]{1,18}", part)
            ]
            if not numbers:
                raise DataError(
                    f"data.group_by={pattern} captures no number in {path!r}, and data.group_block={block} needs one: "
                    r"put the digits in brackets, as in ([a-z]+)(\d+)"
                )
            parts[numbers[-1]] = int(str(parts[numbers[-1]])) // block
        keys.append(("pattern", *parts))
    return keys


def components(keys: Sequence[Sequence[tuple[object, ...]]]) -> np.ndarray:
    """Join photos that share any key, (N,) int64 numbered from 0 by first appearance (union-find)."""
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
