"""Rewrite arguments that have another meaning in Hydra's grammar."""

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path


def quote_overrides(arguments: Sequence[str], lists: Sequence[str] = (), texts: Sequence[str] = ()) -> list[str]:
    """Quote values for Hydra's grammar.

    Args:
        arguments: Arguments of the command line. With -m they are returned unchanged: a comma then separates
            the values of a sweep.
        lists: Keys where `key=a,b` is a list.
        texts: Keys whose value is a path or other text with any characters.

    Example:
        >>> quote_overrides(["format=onnx,ncnn", "source=a b (1).jpg", "seed=1"], lists=["format"], texts=["source"])
        ['format=[onnx,ncnn]', "source='a b (1).jpg'", 'seed=1']
    """
    quoted = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in lists and "," in value and value[0] not in "[\"'":
            argument = f"{key}=[{value}]"
        elif equals and key in texts and value not in ("", "null") and value[0] not in "\"'":
            # Hydra and OmegaConf read a backslash as an escape only before a quote, "${" and the end.
            text = re.sub(r"(\\+)(?='|\$\{|\Z)", r"\1\1", value).replace("'", "\\'").replace("${", "\\${")
            argument = f"{key}='{text}'"
        quoted.append(argument)
    return list(arguments) if {"-m", "--multirun"} & set(arguments) else quoted


def expand_globs(arguments: Sequence[str], conf: Path) -> list[str]:
    """Expand `group=glob(folder/pattern)`; Hydra itself expands patterns without a folder only.

    Args:
        arguments: Arguments of the command line.
        conf: The folder of the config groups.

    Example:
        >>> expand_globs(["-m", "experiment=glob(nowhere/*)"], Path("conf"))
        ['-m', 'experiment=glob(nowhere/*)']
    """
    expanded = []
    for argument in arguments:
        match = re.fullmatch(r"([\w/]+)=glob\(([\w./-]+)/([\w.*?\[\]-]+)\)", argument)
        if match:
            group, folder, pattern = match.groups()
            names = sorted(file.stem for file in (conf / group / folder).glob("*.yaml"))
            chosen = [name for name in names if fnmatch.fnmatch(name, pattern) and not name.startswith("_")]
            if chosen:
                argument = f"{group}=" + ",".join(f"{folder}/{name}" for name in chosen)
        expanded.append(argument)
    return expanded
