"""Facts about this machine and environment: CPU and load, package versions, the git revision."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ["litesort", "torch", "torchvision", "pytorch-lightning", "hydra-core"]
PACKAGES += ["timm", "torchmetrics", "kornia", "numpy"]
# Instruction sets of x86 and Arm that affect the speed of a network, by their names in /proc/cpuinfo.
INSTRUCTION_SETS = ["avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"]
INSTRUCTION_SETS += ["asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"]

# Iterations for which an idle OpenMP thread spins before it sleeps (GOMP_SPINCOUNT; the default of libgomp is 300,000).
# A spinning thread takes CPU time from other processes: benchmarks/threads.py.
SPIN_COUNT = 3000


def available_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_openmp_spinning() -> None:
    """Let idle OpenMP threads sleep early, so that two processes can share the cores.

    Call it before torch is imported. It has no effect if OMP_WAIT_POLICY or GOMP_SPINCOUNT is set.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)


def describe_machine() -> dict[str, Any]:
    """Return the properties of this machine that measured times depend on.

    Returns:
        `cpu` (model), `cores` (that this process may use), `instruction_sets`, `governor` (CPU frequency policy; None
        if it cannot be read) and `load` (average of the last minute; None on Windows).
    """
    cpu, sets = platform.processor() or platform.machine(), set[str]()
    for line in _lines(Path("/proc/cpuinfo")):
        key, _, value = (part.strip() for part in line.partition(":"))
        if key in ("model name", "Model"):  # "Model" names a board, e.g. a Raspberry Pi
            cpu = value
        elif key in ("flags", "Features"):
            sets.update(value.split())
    governor = _lines(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"))
    return {
        "cpu": cpu,
        "cores": available_cpus(),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in sets],
        "governor": governor[0] if governor else None,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _lines(file: Path) -> list[str]:
    """Return the lines of a system file; none if it cannot be read."""
    try:
        return file.read_text(errors="replace").splitlines()
    except OSError:
        return []


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results; missing packages are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_revision(folder: Path) -> str | None:
    """Return the commit of `folder`, with "-dirty" if tracked files differ; None outside a repository."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
