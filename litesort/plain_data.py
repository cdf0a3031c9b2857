"""Read untrusted JSON and YAML, and check plain data, in bounded time and memory.

A few hundred bytes of YAML or a small pickle can expand to billions of values, because both can refer to one value many
times. All readers here refuse such data before it is traversed.
"""

import json
from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 64  # lists and mappings inside each other
MAX_NODES = 5_000_000  # values in a checkpoint or a JSON file, counted once for each place where they occur
LEAVES = {str, int, float, bool, type(None)}
MAX_YAML_EVENTS = 200_000  # a config has a few hundred


def check_size(data: Any, max_nodes: int = MAX_NODES, max_depth: int = MAX_DEPTH) -> None:
    """Raise ValueError if lists, tuples and mappings are nested too deep, or hold too many values.

    A value that several lists share counts once for each of them. A structure that contains itself is too deep. Any
    other object counts as one value.

    >>> loop = []
    >>> loop.append(loop)
    >>> check_size(loop)
    Traceback (most recent call last):
        ...
    ValueError: it is nested more than 64 levels deep
    """
    measured: dict[int, tuple[int, int]] = {}  # id of a container -> its values and levels, so each is traversed once

    def measure(value: Any, level: int) -> tuple[int, int]:
        items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else None
        if items is None:
            return 1, 0
        if level > max_depth:
            raise ValueError(f"it is nested more than {max_depth} levels deep")
        if id(value) not in measured:
            nodes, levels = 1, 0
            for item in items:
                if type(item) in LEAVES:
                    nodes += 1
                    continue
                inside, below = measure(item, level + 1)
                nodes, levels = nodes + inside, max(levels, below)
            measured[id(value)] = nodes, levels + 1
        nodes, levels = measured[id(value)]
        if nodes > max_nodes:
            raise ValueError(f"it holds more than {max_nodes:,} values")
        if level + levels > max_depth + 1:
            raise ValueError(f"it is nested more than {max_depth} levels deep")
        return nodes, levels

    measure(data, 1)


def parse_json(text: str | bytes) -> Any:
    """Read JSON; ValueError if it is damaged or nested too deep."""
    try:
        data = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep") from error
    check_size(data)
    return data


def parse_yaml(text: str) -> Any:
    """Read YAML of plain values; ValueError if it is damaged, too large, nested too deep, or has aliases (`*name`).

    No file that litesort writes has aliases.
    """
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is twelve times as fast
    depth = 0
    try:
        for count, event in enumerate(yaml.parse(text, Loader=loader)):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it has YAML aliases, which are not read")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
            if count > MAX_YAML_EVENTS:
                raise ValueError(f"it holds more than {MAX_YAML_EVENTS:,} values")
        return yaml.load(text, Loader=loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"it is not YAML: {' '.join(str(error).split())}") from error
