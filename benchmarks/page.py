"""Leaderboard page of many runs: build time, size, and the time that a browser takes to open it.

    python benchmarks/page.py                        # 300 generated runs
    python benchmarks/page.py --runs 1000 --keep /tmp/runs

The runs are folders like those of `train.py`: 100 settings with three seeds, six classes, 40 epochs and the same 500
test images. Up to 200 wrong images of a run are stored, 24 of them with heat maps. One run in 30 has failed. Opening is
timed in headless Chromium, from navigation to two frames after the load event. `CHROMIUM=/path/to/chromium` sets the
browser; without it, the PATH is searched.
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from litesort.cli.compose import plain
from reports.html.leaderboard import write_page
from reports.mistakes import data_url, worst_mistakes
from reports.results import gather

CLASSES = ["Metal", "Paper", "Paperpack", "Plastic", "Plasticbag", "Styrofoam"]
MODELS = {
    "lcnet_050": (1.9, 34e6, 2.1, 0.66), "mobilenetv3_small_100": (2.5, 56e6, 3.0, 0.70),
    "resnet18": (11.7, 1.8e9, 18, 0.76), "resnet18d": (11.7, 2.0e9, 21, 0.78),
    "mobilenetv3_large_100": (5.5, 216e6, 7.5, 0.77), "resnet50": (25.6, 4.1e9, 48, 0.80),
    "tf_efficientnet_lite0": (4.7, 385e6, 9.5, 0.82), "deit_tiny_distilled_patch16_224": (5.9, 1.1e9, 16, 0.74),
    "repvgg_a0": (9.1, 1.4e9, 11, 0.75), "ghostnet_100": (5.2, 141e6, 8.8, 0.72),
}  # fmt: skip
IMAGES = 500
SIZES, AUGMENTS = (96, 128, 160, 192, 224), ("light", "randaugment")


def write_runs(folder: Path, count: int) -> Path:
    """Write `count` run folders as a sweep does; returns `folder`."""
    rng = np.random.default_rng(0)
    base = _config()
    images = [_image_and_heat_map(rng) for _ in range(IMAGES)]
    labels = rng.integers(0, 6, IMAGES)
    settings = [(m, s, a) for m in MODELS for s in SIZES for a in AUGMENTS]
    for number in range(count):
        model, size, augment = settings[number // 3 % len(settings)]
        seed = number % 3 + 3 * (number // (3 * len(settings)))
        run = folder / f"{number}-augment-{augment}__data.size-{size}__model-{model}__seed-{seed}"
        run.mkdir(parents=True)
        overrides = [f"model={model}", f"data.size={size}", f"augment={augment}", f"seed={seed}"]
        common = {
            "name": model,
            "model": model,
            "seed": seed,
            "overrides": overrides,
            "data": "folder waste",
            "size": size,
        }
        if number % 30 == 29:
            _write(run / "metrics.json", {"status": "failed", "error": "RuntimeError: CUDA out of memory", **common})
            (run / "error.log").write_text(
                "Traceback (most recent call last):\n  ...\nRuntimeError: CUDA out of memory\n"
            )
            continue
        params, macs, latency, level = MODELS[model]
        f1 = level + 0.05 * np.log(size / 128) + 0.02 * (augment == "randaugment") + rng.normal(0, 0.008)
        by_class = np.clip(f1 + rng.normal(0, 0.05, 6), 0, 1)
        area = (size / 224) ** 2
        _write(run / "metrics.json", {
            "status": "completed", "error": None, **common, "classes": CLASSES,
            "origin": "hub" if augment == "light" else "scratch",
            "test/f1_macro": by_class.mean(), "test/accuracy_micro": by_class.mean() + 0.02, "test/ece": 0.04,
            **{f"test/f1/{name}": value for name, value in zip(CLASSES, by_class, strict=True)},
            "params": int(params * 1e6), "macs": int(macs * area), "bytes": int(params * 4e6),
            "latency_ms": latency * area + rng.normal(0, 0.05), "ratio": latency * area / 60, "val/f1_macro": f1,
            "score": 1.6 - by_class.mean() + latency * area / 60,
            "score_name": "relative", "train_seconds": 900 * area + latency, "epochs": 40, "precision": "16-mixed",
        })  # fmt: skip
        chosen = {"model": {**base["model"], "name": model}, "data": {**base["data"], "size": size, "augment": augment}}
        config = base | chosen | {"seed": seed, "run_dir": str(run)}
        (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        _history(run / "history.csv", by_class, rng)
        probabilities = _predictions(run / "predictions.csv", labels, by_class, rng)
        files = [f"{i}.jpg" for i in range(IMAGES)]
        found = [
            {
                **mistake._asdict(),
                "image": images[mistake.row][0],
                "map": images[mistake.row][1] if i < 24 else None,
            }
            for i, mistake in enumerate(worst_mistakes(probabilities, labels, CLASSES, files, 200))
        ]
        _write(run / "mistakes.json", {"format": 1, "mistakes": found})
    return folder


def _config() -> dict:
    from hydra import compose, initialize_config_dir

    from litesort.cli.compose import CONF

    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(compose("train", overrides=["run_dir=here", "augment=randaugment"]))


def _image_and_heat_map(rng: np.random.Generator) -> tuple[str, str]:
    """Draw a smooth image with grain, which has the file size of a camera image, and a heat map; returns data URLs."""
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize(
        (128, 128), Image.Resampling.BICUBIC
    )
    image = np.clip(np.asarray(coarse) + rng.normal(0, 6, (128, 128, 3)), 0, 255).astype(np.uint8)
    heat = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((24, 24), Image.Resampling.BICUBIC)
    return data_url(image), data_url(np.asarray(heat))


def _history(path: Path, by_class: np.ndarray, rng: np.random.Generator) -> None:
    names = [
        "epoch",
        "step",
        "seconds",
        "train/loss",
        "val/loss",
        "val/f1_macro",
        *(f"val/f1/{n}" for n in CLASSES),
        "train/lr",
    ]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for epoch in range(40):
            share = 1 - np.exp(-(epoch + 1) / 8)
            now = by_class * share + rng.normal(0, 0.01, 6)
            loss = 1.8 - 1.3 * share
            writer.writerow([epoch, 42 * epoch, 25.1, loss, loss + 0.2, now.mean(), *now, 1e-3 * (1 - epoch / 40)])


def _predictions(path: Path, labels: np.ndarray, by_class: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Write predictions.csv; returns probabilities (N, 6)."""
    logits = rng.normal(0, 1, (len(labels), 6))
    logits[np.arange(len(labels)), labels] += 6 * by_class[labels] - 2.5
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "prediction", *(f"p_{name}" for name in CLASSES)])
        for i, (label, row) in enumerate(zip(labels, probabilities, strict=True)):
            writer.writerow([f"{i}.jpg", CLASSES[label], CLASSES[row.argmax()], *(f"{value:.6f}" for value in row)])
    return probabilities


def _write(path: Path, data: dict) -> None:
    path.write_text(json.dumps(data))


def seconds_to_open(path: Path, repeats: int) -> float | None:
    """Median seconds until a browser has loaded and drawn the page; None without a browser."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        return None
    from playwright.sync_api import sync_playwright

    times = []
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for _ in range(repeats):
            tab = chromium.new_page()
            start = time.perf_counter()
            tab.goto(path.resolve().as_uri(), wait_until="load", timeout=120_000)
            tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            times.append(time.perf_counter() - start)
            tab.close()
        chromium.close()
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder for the runs and the page (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_runs(options.keep or Path(scratch) / "sweep", options.runs)
        walls, cpus = [], []
        for _ in range(options.repeats):
            start, cpu = time.perf_counter(), time.process_time()
            page = write_page(gather(folder), folder / "leaderboard.html")
            walls.append(time.perf_counter() - start)
            cpus.append(time.process_time() - cpu)
        size, seconds = page.stat().st_size / 1e6, seconds_to_open(page, options.repeats)
    print(f"{options.runs} runs")
    print(f"build: {statistics.median(walls):.1f} s, CPU {statistics.median(cpus):.1f} s (at most 20)")
    print(f"size:  {size:.1f} MB (at most 15)")
    print("open:  no Chromium found" if seconds is None else f"open:  {seconds:.2f} s (at most 2)")


if __name__ == "__main__":
    main()
