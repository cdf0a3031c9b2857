"""Freed memory stays in the process until it is given back."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Counts page faults while 100 MB are allocated, written and freed twelve times.
FAULTS = """
import resource, torch
from lightning_modules.host_memory import keep_freed_memory
kept = {call}
for turn in range(20):
    if turn == 8:  # the first iterations are warm-up
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [torch.ones(2**22) for _ in range(6)]
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(call: str) -> tuple[bool, int]:
    """Run a call in a new process. Return its result and the page faults after it."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(call=call)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    kept, count = done.stdout.split()
    return kept == "True", int(count)


def test_keep_freed_memory_avoids_page_faults():
    kept, count = faults("keep_freed_memory()")
    if not kept:
        pytest.skip("this C library has no such setting")
    # a fixed threshold at the default of glibc: the dynamic threshold may keep all memory by chance
    assert count < faults("__import__('ctypes').CDLL(None).mallopt(-3, 2**17)")[1] / 10


RESIDENT = """
import torch
from lightning_modules.host_memory import return_freed_memory, keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

kept = keep_freed_memory()
blocks = [torch.ones(2**18) for _ in range(200)]
del blocks
before = resident()
print(kept and return_freed_memory(), before - resident())
"""


def test_return_freed_memory_reduces_resident_memory():
    done = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True, cwd=ROOT)
    able, freed = done.stdout.split()
    if able != "True":
        pytest.skip("this C library has no such call")
    assert int(freed) > 100e6, "of 210 MB that were free"
