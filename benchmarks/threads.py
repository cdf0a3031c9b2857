"""Training speed beside a busy process, by number of OpenMP threads and by how they wait.

    python benchmarks/threads.py                         # resnet18d, 64 px, batch 32

Each setting trains in a separate process, in turn, alone and beside a process that uses one core. On two cores, the
fair share of the training is then one core: the speed of one thread alone. Waiting: `spin` is the default of OpenMP
(libgomp), the commands of litesort set `brief` (`litesort.system.limit_openmp_spinning`), `passive` sleeps at once.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack

import numpy as np
import torch
from clock import busy
from rich.console import Console
from rich.table import Table

from lightning_modules.backbones.backbone import create_backbone
from litesort.system import SPIN_COUNT, available_cpus, describe_machine

WAITING = {
    "spin": {},
    "brief": {"GOMP_SPINCOUNT": str(SPIN_COUNT)},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}


def train(model: str, size: int, batch: int, seconds: float) -> float:
    """Train for some seconds; returns images per second."""
    net = create_backbone(model, 6, pretrained=False).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    images = torch.rand(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(6, (batch,))
    steps, start = -2, time.perf_counter()
    while time.perf_counter() - start < seconds or steps < 1:
        if steps == 0:
            start = time.perf_counter()
        torch.nn.functional.cross_entropy(net(images), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    return batch * steps / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18d")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="measure once with this many threads, print a number")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
        print(json.dumps(train(options.model, options.size, options.batch, options.seconds)))
        return
    cores = available_cpus()
    settings = [(1, "spin"), *((cores, policy) for policy in WAITING)]
    speeds: dict[tuple[int, str, int], list[float]] = {}
    common = ("--model", options.model, "--size", str(options.size), "--batch", str(options.batch))
    for _ in range(options.rounds):
        for others in (0, 1):
            for threads, policy in settings:
                command = [
                    sys.executable,
                    __file__,
                    *common,
                    "--seconds",
                    str(options.seconds),
                    "--threads",
                    str(threads),
                ]
                environment = os.environ | {"OMP_NUM_THREADS": str(threads)} | WAITING[policy]
                with ExitStack() as stack:
                    stack.enter_context(busy(others))
                    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                speeds.setdefault((threads, policy, others), []).append(json.loads(done.stdout.splitlines()[-1]))
    print(describe_machine())
    table = Table(title=f"{options.model}, {options.size} px, batch {options.batch}: images per second")
    for column in ("threads", "waiting", "alone", "beside a busy process", "of one thread alone"):
        table.add_column(column, justify="right")
    share = float(np.median(speeds[1, "spin", 0]))
    for threads, policy in settings:
        alone, beside = (float(np.median(speeds[threads, policy, others])) for others in (0, 1))
        table.add_row(str(threads), policy, f"{alone:.0f}", f"{beside:.0f}", f"{beside / share:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
