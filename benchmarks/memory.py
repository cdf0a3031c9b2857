"""Peak memory of trainings without the page cache, and the memory that several of them share.

    python benchmarks/memory.py                              # one training at 224 px on generated images
    python benchmarks/memory.py --root photos --jobs 10 --model lcnet_050

The script builds the pixel cache, starts `python train.py` --jobs times and reads /proc while they run, evaluation
included. Own memory is RssAnon + RssShmem, which remains when the system frees the pages of files. Pss counts a page of
the pixel cache that n processes map as 1/n for each.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

from images import write_images
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
MB = 1e6


class MemorySampler(threading.Thread):
    """Sample the memory of processes until `stopped` is set; `peaks` holds bytes by (process id, kind of memory)."""

    def __init__(self, interval: float) -> None:
        super().__init__(daemon=True)
        self.interval, self.pids, self.stopped = interval, list[int](), threading.Event()
        self.peaks: dict[tuple[int, str], float] = defaultdict(float)
        self.shared = {"all maps": 0.0, "counted once": 0.0, "processes": 0.0}

    def run(self) -> None:
        while not self.stopped.wait(self.interval):
            maps = []
            for pid in self.pids:
                try:
                    status, mapped = fields(f"/proc/{pid}/status"), pixel_maps(pid)
                except OSError:  # the process has ended
                    continue
                if "RssAnon" in status:
                    self._update_peaks(pid, status)
                    maps.append(mapped)
            together = sum(rss for rss, _ in maps)
            if together > self.shared["all maps"]:
                values = together, sum(pss for _, pss in maps), sum(rss > 0 for rss, _ in maps)
                self.shared = dict(zip(self.shared, values, strict=True))

    def _update_peaks(self, pid: int, status: dict[str, float]) -> None:
        values = {"own": status["RssAnon"] + status["RssShmem"], "files": status["RssFile"], "VmHWM": status["VmHWM"]}
        for kind, value in values.items():
            self.peaks[pid, kind] = max(self.peaks[pid, kind], value)


def fields(path: str) -> dict[str, float]:
    """The lines `Name: n kB` of a file in /proc, as bytes."""
    return {name: 1024.0 * int(kb) for name, kb in re.findall(r"^(\w+):\s+(\d+) kB", Path(path).read_text(), re.M)}


def pixel_maps(pid: int) -> tuple[float, float]:
    """Bytes of the pixel cache in a process: resident bytes (Rss), and its share of them (Pss)."""
    rss = pss = 0.0
    in_cache = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            in_cache = "/pixels/" in line
        elif in_cache and line.startswith(("Rss:", "Pss:")):
            size = 1024.0 * int(line.split()[1])
            rss, pss = (rss + size, pss) if line.startswith("Rss:") else (rss, pss + size)
    return rss, pss


def command(options: argparse.Namespace, root: Path, scratch: Path, job: int, *more: str) -> list[str]:
    return [
        sys.executable, str(ROOT / "train.py"), f"model={options.model}", "model.pretrained=false", "data=folder",
        f"data.root={root.resolve()}", f"data.size={options.size}", f"data.batch_size={options.batch}",
        f"data.cache_dir={scratch / 'cache'}", f"epochs={options.epochs}", f"seed={job}", "augment=randaugment",
        f"trainer.limit_train_batches={options.steps}", f"hydra.run.dir={scratch / f'job{job}'}",
        "trainer.enable_progress_bar=false", "trainer.accelerator=cpu", *more,
    ]  # fmt: skip


def start(line: list[str], log: Path) -> subprocess.Popen:
    with log.open("w") as file:
        return subprocess.Popen(line, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)


def run(options: argparse.Namespace, root: Path, scratch: Path) -> tuple[MemorySampler, list[int]]:
    """Build the cache by a training of one step, then run --jobs trainings at once and sample their memory."""
    first = start(command(options, root, scratch, 0, "epochs=1", "trainer.limit_train_batches=1"), scratch / "0.log")
    finish(first, scratch / "0.log")
    sampler = MemorySampler(options.interval)
    sampler.start()
    jobs = range(1, options.jobs + 1)
    started = [(start(command(options, root, scratch, job), scratch / f"{job}.log"), job) for job in jobs]
    sampler.pids = [process.pid for process, _ in started]
    for process, job in started:
        finish(process, scratch / f"{job}.log")
    sampler.stopped.set()
    sampler.join()
    return sampler, sampler.pids


def finish(process: subprocess.Popen, log: Path) -> None:
    if process.wait():
        raise SystemExit(f"a training failed:\n{log.read_text()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder of class folders (default: generated images)")
    parser.add_argument("--images", type=int, default=1024, help="images to generate")
    parser.add_argument("--model", default="resnet18d")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help="steps per epoch")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--interval", type=float, default=0.1, help="seconds between two readings")
    options = parser.parse_args()
    start_time = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        root = options.root or write_images(scratch / "images", options.images)
        sampler, pids = run(options, root, scratch)
        cache = sum(file.stat().st_size for file in (scratch / "cache" / "pixels").rglob("*") if file.is_file())
    table = Table(title=f"{options.model}, {options.size} px, batch {options.batch}: peaks in MB")
    for column in ("training", "own memory", "pages of files", "both (VmHWM)"):
        table.add_column(column, justify="right")
    for number, pid in enumerate(pids, 1):
        table.add_row(str(number), *(f"{sampler.peaks[pid, what] / MB:,.0f}" for what in ("own", "files", "VmHWM")))
    console = Console()
    console.print(table)
    maps, once, count = sampler.shared.values()
    console.print(f"pixel cache: {cache / MB:,.0f} MB on disk; mapped by {count:.0f} at once: {maps / MB:,.0f} MB")
    console.print(f"counted once: {once / MB:,.0f} MB of memory ({time.perf_counter() - start_time:.0f} s)")


if __name__ == "__main__":
    main()
