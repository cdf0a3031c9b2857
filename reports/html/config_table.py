"""Table of config keys whose values differ between runs."""

from collections.abc import Mapping, Sequence
from typing import Any

MAX_COLUMNS = 40


def differing(settings: Sequence[Mapping[str, Any]], configs: Mapping[int, dict[str, str]]) -> dict[str, Any]:
    """Return a table of the config keys whose values differ between runs. Keys that change together share a column.

    Args:
        settings: Entries of the leaderboard, each with `run`, the id of its run.
        configs: Flat config of each run by id.

    Returns:
        heads: of each column, its first key and a list of its other keys. rows: entry and values of each row; None
        where a key is absent. left_out: number of columns that are not shown.
    """
    shown = [(setting, configs.get(setting["run"], {})) for setting in settings]
    shown = [(setting, config) for setting, config in shown if config]
    keys = list(dict.fromkeys(key for _, config in shown for key in config if key.split(".")[-1] != "seed"))
    columns: dict[tuple[int, ...], list[str]] = {}
    for key in keys:
        values = [config.get(key) for _, config in shown]
        pattern = tuple(map(values.index, values))  # equal for keys that change together
        if any(pattern):
            columns.setdefault(pattern, []).append(key)
    order = (
        sorted(columns, key=lambda pattern: -len(set(pattern)))[:MAX_COLUMNS]
        if len(columns) > MAX_COLUMNS
        else list(columns)
    )
    heads = [(columns[pattern][0], columns[pattern][1:]) for pattern in order]
    body = [(setting, [config.get(head) for head, _ in heads]) for setting, config in shown]
    return {"heads": heads, "rows": body, "left_out": len(columns) - len(order)}
