"""glibc keeps freed memory in the process until `return_freed_memory` is called."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Count the page faults while 100 MB are allocated, written and freed twelve times.
COUNT_FAULTS = """
import resource, torch
from lightning_modules.host_memory import keep_freed_memory
kept = {call}
for i in range(20):
    if i == 8:  # the first iterations are warm-up
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [torch.ones(2**22) for _ in range(6)]
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(call: str) -> tuple[bool, int]:
    """Run a call in a new process. Return its result and the page faults after it."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS.format(call=call)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    kept, count = done.stdout.split()
    return kept == "True", int(count)


def test_keep_freed_memory_avoids_page_faults():
    kept, count = count_faults("keep_freed_memory()")
    if not kept:
        pytest.skip("this C library has no such setting")
    # glibc adapts its threshold for mmap, and may keep all memory by chance. Setting M_MMAP_THRESHOLD fixes it.
    assert count < count_faults("__import__('ctypes').CDLL(None).mallopt(-3, 2**17)")[1] / 10


RESIDENT = """
import resource, torch
from lightning_modules.host_memory import keep_freed_memory, return_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

if not keep_freed_memory():
    print(False, 0)
    raise SystemExit
blocks = [torch.ones(2**18) for _ in range(200)]
del blocks
before = resident()
print(return_freed_memory(), before - resident())
"""


def test_return_freed_memory_reduces_resident_memory():
    done = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True, cwd=ROOT)
    returned, freed = done.stdout.split()
    if returned != "True":
        pytest.skip("this C library has no such function")
    assert int(freed) > 100e6, "of 210 MB"
