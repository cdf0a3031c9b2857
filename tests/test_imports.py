"""Who may import whom, read from the sources, so that a room keeps knowing only what it is meant to know."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]

# Room -> the rooms that it may import besides itself. Entry points, at the root, may import all of them.
MAY_IMPORT = {
    "litesort": set(),  # and every room may import it
    "datamodules": set(),
    "lightning_modules": set(),
    "deployment": set(),
    "reports": set(),
    "conf": {"lightning_modules"},  # for the error that a user's mistake raises
    "hydra_plugins": {"conf", "reports"},  # where Hydra looks for launchers and sweepers
    "callbacks": {"lightning_modules", "deployment", "reports", "conf"},  # of conf only what starts an entry point
}
# Room -> packages that it knows nothing of.
TORCH = {"torch", "torchvision", "torchmetrics", "pytorch_lightning", "lightning_fabric", "lightning", "timm", "kornia"}
STRANGERS = {
    "litesort": TORCH | {"hydra", "omegaconf", "numpy"},
    "datamodules": {"timm", "torchmetrics"},
    "lightning_modules": {"kornia"},
    "deployment": TORCH - {"torch"},
    "reports": TORCH,
    "conf": TORCH,
    "hydra_plugins": TORCH,
    "callbacks": set(),
}
SHARED = {PurePosixPath("conf/build.py"), PurePosixPath("conf/split_origin.py")}  # what the entry points share
# Package -> where it may be imported: rooms, or single files; "" stands for the entry points.
ONLY_IN = {
    "wandb": {"callbacks"},
    "hydra": {"", "callbacks/sweep.py", "hydra_plugins"},
    "omegaconf": {"", "conf", "callbacks/sweep.py", "hydra_plugins"},
}
LEAF = "litesort"
# Packages that cost seconds or are optional: only inside functions, everywhere.
NEVER_AT_TOP = {
    "wandb", "openvino", "nncf", "onnx", "onnxruntime", "ncnn", "pnnx", "torch_pruning", "captum", "optuna", "joblib",
}  # fmt: skip


def sources() -> list[PurePosixPath]:
    files = [*ROOT.glob("*.py"), *(file for room in MAY_IMPORT for file in (ROOT / room).rglob("*.py"))]
    return sorted(PurePosixPath(file.relative_to(ROOT).as_posix()) for file in files)


def is_light(file: PurePosixPath) -> bool:
    """Files on the path of `--help`, which has no time for torch."""
    return (
        len(file.parts) == 1
        or file in SHARED
        or file.name == "__init__.py"
        or file.parts[0] == "hydra_plugins"
        or str(file) == "callbacks/sweep.py"
    )


def imported(file: PurePosixPath, source: str) -> Iterator[tuple[str, int, bool]]:
    """Full name, line, and whether it runs when the module is imported."""

    def visit(node: ast.AST, at_top: bool) -> Iterator[tuple[str, int, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, at_top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = file.parts[: len(file.parts) - node.level] if node.level else ()
            yield ".".join([*package, *(node.module or "").split(".")]).strip("."), node.lineno, at_top
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from (
                (str(part.value), node.lineno, at_top) for part in node.args[:1] if isinstance(part, ast.Constant)
            )
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        )
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_top and not inside)

    yield from visit(ast.parse(source), True)


def broken_rules(file: PurePosixPath, source: str) -> list[str]:
    room = file.parts[0] if len(file.parts) > 1 and file not in SHARED else ""
    found = []
    for name, line, at_top in imported(file, source):
        package = name.split(".")[0]
        where = f"{file}:{line} imports {name}"
        if room and package in MAY_IMPORT and package not in {room, LEAF, *MAY_IMPORT[room]}:
            found.append(f"{where}: {room} may not import {package}")
        if room and (ROOT / f"{package}.py").is_file() and len(name.split(".")) == 1:
            found.append(f"{where}: nothing imports an entry point but another one")
        if package in STRANGERS.get(room, ()):
            found.append(f"{where}: {room} knows nothing of {package}")
        if package in ONLY_IN and not {room, str(file)} & ONLY_IN[package]:
            found.append(f"{where}: only in {sorted(ONLY_IN[package])}")
        if at_top and package in NEVER_AT_TOP:
            found.append(f"{where}: only inside a function")
        if at_top and is_light(file) and package in TORCH:
            found.append(f"{where}: only inside a function, or --help waits for it")
    return found


def test_all_sources_are_seen():
    files = sources()
    assert PurePosixPath("train.py") in files
    assert all(sum(file.parts[0] == room for file in files) >= 1 for room in MAY_IMPORT)
    assert len(files) >= 40


@pytest.mark.parametrize("file", sources(), ids=str)
def test_every_file_imports_only_what_its_room_may(file):
    assert broken_rules(file, (ROOT / file).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source", "rule"),
    [
        ("datamodules/a.py", "from lightning_modules import x", "may not import lightning_modules"),
        ("lightning_modules/a.py", "def f():\n    import datamodules.waste", "may not import datamodules"),
        ("deployment/a.py", "from reports.files import x", "may not import reports"),
        ("callbacks/a.py", "import datamodules", "may not import datamodules"),
        ("datamodules/sources/a.py", "from ...callbacks import x", "may not import callbacks"),
        ("deployment/a.py", "import importlib\nimportlib.import_module('callbacks.sweep')", "may not import callbacks"),
        ("reports/a.py", "def f():\n    import torch", "knows nothing of torch"),
        ("deployment/a.py", "import timm", "knows nothing of timm"),
        ("reports/a.py", "def f():\n    import wandb", "only in"),
        ("callbacks/a.py", "import wandb", "only inside a function"),
        ("callbacks/a.py", "try:\n    import wandb\nexcept ImportError:\n    pass", "only inside a function"),
        ("callbacks/a.py", "class A:\n    import wandb", "only inside a function"),
        ("callbacks/a.py", "def f():\n    from hydra.utils import x", "only in"),
        ("datamodules/a.py", "import omegaconf", "only in"),
        ("deployment/a.py", "from onnxruntime import quantization", "only inside a function"),
        ("train.py", "import torch.nn", "--help waits"),
        ("callbacks/__init__.py", "import pytorch_lightning", "--help waits"),
        ("callbacks/a.py", "from train import train", "entry point"),
        ("litesort/a.py", "def f():\n    from reports import files", "may not import reports"),
        ("litesort/a.py", "def f():\n    import torch", "knows nothing of torch"),
    ],
)
def test_each_rule_is_enforced(file, source, rule):
    (found,) = broken_rules(PurePosixPath(file), source)
    assert rule in found


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("callbacks/a.py", "import torch\nfrom reports import files\ndef f():\n    import wandb"),
        ("callbacks/sweep.py", "import hydra\nfrom omegaconf import DictConfig"),
        ("train.py", "import hydra\ndef f():\n    import torch\n    from datamodules import waste"),
        ("deployment/a.py", "import torch\nfrom . import score\ndef f():\n    import onnx"),
        ("datamodules/sources/a.py", "from ..images import x"),
        ("reports/a.py", "from litesort.plain_data import parse_json"),
    ],
)
def test_what_is_allowed_passes(file, source):
    assert broken_rules(PurePosixPath(file), source) == []


def test_reports_and_the_start_of_a_run_load_no_torch():
    light = [file for file in sources() if is_light(file) or file.parts[0] == "reports"]
    names = [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in light]
    assert {"train", "callbacks.sweep", "reports.leaderboard"} <= set(names)
    code = f"import sys\nfor name in {names}: __import__(name)\nprint(sorted(set(sys.modules) & set({sorted(TORCH)})))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
