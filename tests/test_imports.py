"""Rules for imports between packages, checked in the source files."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
CLI = "litesort.cli"
EVERYTHING = {"litesort", "datamodules", "lightning_modules", "deployment", "reports", "callbacks", "loggers", CLI}

# Package -> packages of this project that it may import. Entry points, at the root, and commands (`__main__.py`) may
# import all.
MAY_IMPORT: dict[str, set[str]] = {
    "litesort": set(),
    "datamodules": {"litesort"},
    "lightning_modules": {"litesort"},
    "deployment": {"litesort"},
    "reports": {"litesort"},
    "callbacks": {"litesort", "lightning_modules", "deployment", "reports"},
    "loggers": {"litesort", "lightning_modules", "deployment", "reports"},
    CLI: EVERYTHING,  # other packages than litesort only inside functions
    "hydra_plugins": {"litesort", CLI, "reports"},
    "conf": set(),
}
TORCH = {"torch", "torchvision", "torchmetrics", "pytorch_lightning", "lightning_fabric", "lightning", "timm", "kornia"}
# Package -> libraries that it may not import.
FORBIDDEN = {
    "datamodules": {"timm", "torchmetrics"},
    "lightning_modules": {"kornia"},
    "deployment": TORCH - {"torch"},
    "reports": TORCH,
    "hydra_plugins": TORCH,
    "conf": TORCH,
}
# Library -> packages that may import it; "" stands for the entry points.
ONLY_IN = {
    "wandb": {"loggers"},
    "wandb_workspaces": {"loggers"},
    "hydra": {"", CLI, "hydra_plugins"},
    "omegaconf": {"", CLI, "hydra_plugins"},
}
# Libraries that take seconds to import or are optional: only inside functions.
NEVER_AT_TOP = {
    "wandb", "openvino", "nncf", "onnx", "onnxruntime", "ncnn", "torch_pruning", "captum", "optuna", "joblib",
}  # fmt: skip
ENTRY_POINTS = ("train", "evaluate", "export", "predict", "explore")


def sources() -> list[PurePosixPath]:
    folders = {package.split(".")[0] for package in MAY_IMPORT}
    files = [*ROOT.glob("*.py"), *(file for folder in folders for file in (ROOT / folder).rglob("*.py"))]
    return sorted(PurePosixPath(file.relative_to(ROOT).as_posix()) for file in files)


def package_of(name: str) -> str:
    """Return the key of MAY_IMPORT for a dotted name."""
    return CLI if name == CLI or name.startswith(f"{CLI}.") else name.split(".")[0]


def module_name(file: PurePosixPath) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def imports(file: PurePosixPath, source: str) -> Iterator[tuple[str, int, bool]]:
    """Yield the full name, the line, and whether the import runs when the module is imported; skip TYPE_CHECKING."""

    def visit(node: ast.AST, at_top: bool) -> Iterator[tuple[str, int, bool]]:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, at_top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = file.parts[: len(file.parts) - node.level] if node.level else ()
            name = ".".join([*package, *(node.module or "").split(".")]).strip(".")
            yield name, node.lineno, at_top
            yield from ((f"{name}.{alias.name}", node.lineno, at_top) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from ((part.value, node.lineno, at_top) for part in node.args[:1] if is_text(part))
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_top and not inside)

    yield from visit(ast.parse(source), True)


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def broken_rules(file: PurePosixPath, source: str) -> list[str]:
    package = package_of(module_name(file)) if len(file.parts) > 1 and file.name != "__main__.py" else ""
    found = {}
    for name, line, at_top in imports(file, source):
        other, library = package_of(name), name.split(".")[0]
        where = f"{file}:{line} imports {library if other != CLI else CLI}"
        if package and other in MAY_IMPORT and other != package and other not in MAY_IMPORT[package]:
            found[f"{where}: {package} may not import {other}"] = None
        if package == CLI and at_top and other in MAY_IMPORT and other not in (CLI, "litesort"):
            found[f"{where}: {CLI} imports it only inside a function"] = None
        if package and library in ENTRY_POINTS:
            found[f"{where}: only an entry point imports an entry point"] = None
        if library in FORBIDDEN.get(package, ()):
            found[f"{where}: {package} may not import {library}"] = None
        if library in ONLY_IN and package not in ONLY_IN[library]:
            found[f"{where}: only in {sorted(ONLY_IN[library])}"] = None
        if at_top and library in NEVER_AT_TOP:
            found[f"{where}: only inside a function"] = None
        if package == "litesort" and library not in {*sys.stdlib_module_names, "numpy", "yaml", "litesort"}:
            found[f"{where}: litesort may import the standard library, numpy and PyYAML only"] = None
    return list(found)


def graph(texts: dict[PurePosixPath, str]) -> dict[str, set[str]]:
    """Return module -> modules of this project that it imports, at the top or inside functions.

    texts: the sources, by file.
    """
    names = {module_name(file) for file in texts}
    edges: dict[str, set[str]] = {}
    for file, text in texts.items():
        name = module_name(file)
        found = {imported for imported, _, _ in imports(file, text)}
        # `from package import module` depends on the module; a package's own modules may import from its __init__
        submodules = {imported for imported in found if imported in names}
        edges[name] = {
            other for other in submodules
            if other != name and not any(more.startswith(f"{other}.") for more in submodules if more != name)
        }  # fmt: skip
    return edges


def find_cycle(edges: dict[str, set[str]]) -> list[str]:
    """Return the modules of one cycle in order, the first again at the end; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(edges.get(name, ())):
            if found := visit(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next(filter(None, (visit(name, []) for name in sorted(edges))), [])


def test_sources_include_every_package_and_entry_point():
    files = sources()
    assert PurePosixPath("train.py") in files
    assert {package_of(module_name(file)) for file in files} >= set(MAY_IMPORT)


@pytest.mark.parametrize("file", sources(), ids=str)
def test_every_file_imports_only_what_its_package_may(file):
    assert broken_rules(file, (ROOT / file).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source", "rule"),
    [
        ("datamodules/a.py", "from lightning_modules import x", "may not import lightning_modules"),
        ("lightning_modules/a.py", "def f():\n    import datamodules.datamodule", "may not import datamodules"),
        ("deployment/a.py", "from reports.results import x", "may not import reports"),
        ("callbacks/a.py", "import datamodules", "may not import datamodules"),
        ("callbacks/a.py", "from loggers.images import x", "may not import loggers"),
        ("callbacks/a.py", "from litesort.cli import resume", "may not import litesort.cli"),
        ("datamodules/sources/a.py", "from ...callbacks import x", "may not import callbacks"),
        ("deployment/a.py", "import importlib\nimportlib.import_module('callbacks.ema')", "may not import callbacks"),
        ("reports/a.py", "def f():\n    import torch", "may not import torch"),
        ("deployment/a.py", "import timm", "may not import timm"),
        ("callbacks/a.py", "def f():\n    import wandb", "only in"),
        ("loggers/a.py", "import wandb", "only inside a function"),
        ("loggers/a.py", "try:\n    import wandb\nexcept ImportError:\n    pass", "only inside a function"),
        ("loggers/a.py", "class A:\n    import wandb", "only inside a function"),
        ("callbacks/a.py", "def f():\n    from hydra.utils import x", "only in"),
        ("datamodules/a.py", "import omegaconf", "only in"),
        ("deployment/a.py", "from onnxruntime import quantization", "only inside a function"),
        ("litesort/a.py", "def f():\n    import torch", "standard library, numpy and PyYAML only"),
        ("litesort/a.py", "from litesort.cli import launch", "may not import litesort.cli"),
        ("litesort/cli/a.py", "from reports import results", "only inside a function"),
        ("litesort/cli/a.py", "def f():\n    import train", "entry point"),
        ("callbacks/a.py", "from train import train", "entry point"),
    ],
)
def test_each_rule_is_enforced(file, source, rule):
    (found,) = broken_rules(PurePosixPath(file), source)
    assert rule in found


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("loggers/a.py", "import torch\nfrom reports import results\ndef f():\n    import wandb"),
        ("litesort/cli/a.py", "import hydra\nfrom omegaconf import DictConfig\ndef f():\n    import datamodules"),
        ("train.py", "import hydra\ndef f():\n    import torch\n    from datamodules import datamodule"),
        ("deployment/a.py", "import torch\nfrom . import score\ndef f():\n    import onnx"),
        ("datamodules/sources/a.py", "from ..images import x"),
        ("litesort/a.py", "import json\nimport numpy as np\nfrom litesort.errors import x"),
        ("datamodules/augment/__main__.py", "import hydra\nfrom litesort.cli import launch"),
    ],
)
def test_allowed_imports_pass(file, source):
    assert broken_rules(PurePosixPath(file), source) == []


def test_imports_have_no_cycle():
    assert find_cycle(graph({file: (ROOT / file).read_text(encoding="utf-8") for file in sources()})) == []


def test_find_cycle_reports_the_modules_of_a_cycle():
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    texts = {
        PurePosixPath("deployment/__init__.py"): "",
        PurePosixPath("deployment/a.py"): "from deployment import b",
        PurePosixPath("deployment/b.py"): "def f():\n    from .c import x",
        PurePosixPath("deployment/c.py"): "import deployment.a",
    }
    assert find_cycle(graph(texts)) == ["deployment.a", "deployment.b", "deployment.c", "deployment.a"]
    texts[PurePosixPath("deployment/c.py")] = "import deployment"
    assert find_cycle(graph(texts)) == []


def test_packages_and_light_modules_load_no_torch():
    light = [
        file for file in sources() if len(file.parts) == 1 or file.parts[0] in ("litesort", "hydra_plugins", "reports")
    ]
    roots = [package for package in MAY_IMPORT if (ROOT / package.replace(".", "/") / "__init__.py").is_file()]
    names = [*roots, *map(module_name, light)]
    assert {"train", "litesort.cli.sweep_callback", "reports.leaderboard", "callbacks"} <= set(names)
    code = f"import sys\nfor name in {names}: __import__(name)\nprint(sorted(set(sys.modules) & set({sorted(TORCH)})))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_help_and_cfg_job_load_no_heavy_package(tmp_path):
    code = f"""
import contextlib, io, os, runpy, sys
heavy = {sorted(TORCH | NEVER_AT_TOP | {"matplotlib", "pandas", "scipy", "sklearn"})}
for script in {ENTRY_POINTS}:
    for arguments in (["--help"], ["--cfg", "job"]):
        sys.argv = [script + ".py", *arguments]
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
            runpy.run_path(os.path.join({str(ROOT)!r}, script + ".py"), run_name="__main__")
        assert len(out.getvalue()) > 100, (script, arguments)
        print(script, *arguments, sorted(set(sys.modules) & set(heavy)))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = [f"{name} {flags} []" for name in ENTRY_POINTS for flags in ("--help", "--cfg job")]
    assert done.stdout.splitlines() == expected
