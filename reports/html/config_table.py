"""Table of config keys whose values differ between runs."""

from collections.abc import Mapping, Sequence
from typing import Any

KEYS = 40  # columns, at most


def differing(settings: Sequence[Mapping[str, Any]], configs: Mapping[int, dict[str, str]]) -> dict[str, Any]:
    """Config keys whose values differ between runs; keys that change together share a column."""
    shown = [(setting, configs.get(setting["run"], {})) for setting in settings]
    shown = [(setting, config) for setting, config in shown if config]
    keys = list(dict.fromkeys(key for _, config in shown for key in config if key.split(".")[-1] != "seed"))
    columns: dict[tuple[int, ...], list[str]] = {}
    for key in keys:
        values = [config.get(key) for _, config in shown]
        pattern = tuple(map(values.index, values))  # equal for keys that change together
        if any(pattern):
            columns.setdefault(pattern, []).append(key)
    order = sorted(columns, key=lambda pattern: -len(set(pattern)))[:KEYS] if len(columns) > KEYS else list(columns)
    heads = [(columns[pattern][0], columns[pattern][1:]) for pattern in order]
    body = [(setting, [config.get(head) for head, _ in heads]) for setting, config in shown]
    return {"heads": heads, "rows": body, "left_out": len(columns) - len(order)}
