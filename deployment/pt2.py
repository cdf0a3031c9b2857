"""Load a torch.export file without running code from it.

`torch.export.load` alone unpickles tensors, constants and sample inputs, evaluates expressions, takes any name below
`torch` for an operator, and writes names from the file into Python source. So the archive is read here, everything in
it is compared with the little that an image classifier needs, and a clean archive of what passed is what torch loads.
"""

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deployment import DeploymentError
from deployment.record import KEY

_OPERATOR = re.compile(r"torch\.ops\.aten\.(?!from_file|save|load)_?[a-z][a-z0-9_]*\.\w+")
_NUMBERS = re.compile(r"_operator\.(add|sub|mul|floordiv|getitem|eq|ne|lt|le|gt|ge)|torch\.sym_(max|min|not)")
_SYMBOL = re.compile(r"[su]\d+|Symbol\('[su]\d+'(, (positive|nonnegative|integer)=True)*\)", re.ASCII)
_WORD = re.compile(r"[\w.+\-]{0,300}", re.ASCII)  # no quote, no bracket, no space: nothing that can be code
_TENSOR = re.compile(r"(weight|tensor)_\d+")
_REFUSED = {"as_custom_obj", "as_graph", "as_operator", "as_opaque", "custom_obj", "token"}
# One positional tensor in, one tensor out: the only signature that litesort writes.
_SIGNATURE = (
    '[1, {"type": "builtins.tuple", "context": "null", "children_spec": [{"type": "builtins.tuple", "context": "null", '
    '"children_spec": [{"type": null, "context": null, "children_spec": []}]}, {"type": "builtins.dict", "context": '
    '"[]", "children_spec": []}]}]'
)
_RESULT = '[1, {"type": null, "context": null, "children_spec": []}]'


class _Suspicious(Exception):
    """What the archive holds that it has no need to hold."""


def read_pt2(path: Path) -> tuple[nn.Module, str | None]:
    """Load a torch.export file that litesort wrote: the callable graph, and its metadata text or None.

    Raises:
        DeploymentError: The file is no such archive, or holds anything that could be made to run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(archive)
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise DeploymentError(f"ckpt={path} cannot be read as a torch.export file: {error}") from error
    text = entries.get(f"extra/{KEY}")
    try:
        clean = _clean(entries)
    except (_Suspicious, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise DeploymentError(
            f"ckpt={path} is refused, for it is not as litesort writes torch.export files: {str(error)[:150]}"
        ) from error
    try:
        program = torch.export.load(io.BytesIO(clean))
        # The same `module()` for all versions; its guards are made of the symbols that were checked.
        return program.module(), None if text is None else text.decode(errors="replace")
    except Exception as error:  # another torch's schema, or damage: fails as anything
        line = (str(error).splitlines() or [type(error).__name__])[0][:150]
        raise DeploymentError(
            f"ckpt={path} cannot be loaded by torch {torch.__version__}: {line}: export it again with this torch"
        ) from error


def _entries(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """Content by name, the archive's own top folder taken off."""
    found: dict[str, bytes] = {}
    for info in archive.infolist():
        name = info.filename.partition("/")[2]
        if name in found or info.compress_type != zipfile.ZIP_STORED:
            raise zipfile.BadZipFile(f"unusual entry {info.filename!r}")
        found[name] = archive.read(info)
    return found


def _clean(entries: dict[str, bytes]) -> bytes:
    kept = {"archive_format": b"pt2", "archive_version": entries["archive_version"], "byteorder": b"little"}
    if entries["byteorder"] != b"little" or not re.fullmatch(rb"\d{1,3}", entries["archive_version"]):
        raise _Suspicious("byte order or version")
    kept["models/model.json"] = json.dumps(_program(json.loads(entries["models/model.json"]))).encode()
    for folder, config in (("weights", "model_weights_config.json"), ("constants", "model_constants_config.json")):
        described = json.loads(entries[f"data/{folder}/{config}"])
        for name, tensor in described["config"].items():
            kept_name = f"data/{folder}/{_tensor(name, tensor)}"
            kept[kept_name] = entries[kept_name]
        kept[f"data/{folder}/{config}"] = json.dumps({"config": described["config"]}).encode()
    kept["data/sample_inputs/model.pt"] = b""  # a pickle, and nobody needs it
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    for name, content in kept.items():
        if name != "byteorder":  # the writer adds its own
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return buffer.getvalue()


def _tensor(name: str, tensor: dict[str, Any]) -> str:
    """File name of a tensor that is stored as plain numbers."""
    if tensor["use_pickle"] is not False or not _TENSOR.fullmatch(tensor["path_name"]):
        raise _Suspicious(f"the tensor {name[:50]} is pickled")
    _check({name: tensor})
    return str(tensor["path_name"])


def _program(program: dict[str, Any]) -> dict[str, Any]:
    """Graph without what serves debugging only, after everything else in it was looked at."""
    module = program["graph_module"]
    for node in module["graph"]["nodes"]:
        node["metadata"] = {}
        target = node.pop("target")
        if not (_OPERATOR.fullmatch(target) or _NUMBERS.fullmatch(target)):
            raise _Suspicious(f"operator {target[:60]}")
        _check(node)
        node["target"] = target
    calls, module["module_call_graph"] = module["module_call_graph"][:1], []
    signature = calls[0]["signature"]
    if (signature["in_spec"], signature["out_spec"]) != (_SIGNATURE, _RESULT):
        raise _Suspicious("signature")
    module["metadata"] = {}
    program["guards_code"] = []
    nodes = module["graph"].pop("nodes")
    _check(program)
    _check({**signature, "in_spec": "", "out_spec": ""})
    module["graph"]["nodes"], module["module_call_graph"] = nodes, calls
    return program


def _check(value: Any, key: str = "") -> None:
    """Refuse any text that is not a plain word, any expression but a symbol's name, and any kind of object."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not _WORD.fullmatch(name) or (name in _REFUSED and inner):
                raise _Suspicious(f"{name[:50]}")
            _check(inner, name)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, key)
    elif isinstance(value, str):
        allowed = _SYMBOL if key in ("expr_str", "as_expr") else _WORD
        if not allowed.fullmatch(value):
            raise _Suspicious(f"{key} {value[:50]!r}")
