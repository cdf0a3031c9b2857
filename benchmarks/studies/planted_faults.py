"""Share of planted faults that the data report finds, on a copy of real images.

    python benchmarks/studies/planted_faults.py --root photos          # one sub-folder per class

The faults are planted in disjoint sets of images: 3 % exact copies, 3 % copies that are re-encoded, cropped or
brightened, 5 % wrong labels and 1 % broken files. Faults of the original images are unknown and count as false alarms.
"""

import argparse
import io
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance
from rich.console import Console
from rich.table import Table

from datamodules.cache.config import CacheConfig
from datamodules.datamodule import ImageDataModule
from datamodules.quality.report import data_report
from datamodules.sources.folder import FolderSource
from lightning_modules.backbones.embedder import default_embedder

SHARES = {"exact copies": 0.03, "changed copies": 0.03, "wrong labels": 0.05, "broken files": 0.01}
TARGETS = {"exact copies": 0.99, "changed copies": 0.95, "wrong labels": 0.6, "broken files": 1.0}


def changed(image: Image.Image, kind: int, random: np.random.Generator) -> Image.Image:
    """Re-encode at 3/4 of the size and quality 25 to 60 (kind 0), keep 85 to 95 % of each side (1), or brighten (2)."""
    if kind == 0:
        stream = io.BytesIO()
        small = image.resize((image.width * 3 // 4, image.height * 3 // 4))
        small.save(stream, "JPEG", quality=int(random.integers(25, 61)))
        return Image.open(stream).convert("RGB")
    if kind == 1:
        share = random.uniform(0.85, 0.95)
        width, height = round(image.width * share), round(image.height * share)
        left, top = random.integers(0, image.width - width + 1), random.integers(0, image.height - height + 1)
        return image.crop((int(left), int(top), int(left) + width, int(top) + height))
    return ImageEnhance.Brightness(image).enhance(float(random.choice([0.7, 0.8, 1.2, 1.35])))


def plant(source: FolderSource, root: Path, seed: int) -> dict[str, dict[str, str]]:
    """Copy the images to `root` with faults; returns kind -> path of the fault -> original path or class."""
    random = np.random.default_rng(seed)
    for sample in source.samples:
        (root / sample.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.root / sample.path, root / sample.path)
    order, start, planted = random.permutation(len(source.samples)), 0, {}
    for kind, share in SHARES.items():
        count = round(share * len(order))
        chosen, start, planted[kind] = order[start : start + count], start + count, {}
        for number, row in enumerate(chosen):
            name = source.samples[row].path
            copy = str(Path(name).with_stem(f"{Path(name).stem}-{number}"))
            if kind == "exact copies":
                shutil.copyfile(root / name, root / copy)
                planted[kind][copy] = name
            elif kind == "changed copies":
                with Image.open(root / name) as image:
                    changed(image.convert("RGB"), number % 3, random).save(root / copy, quality=85)
                planted[kind][copy] = name
            elif kind == "wrong labels":
                others = [label for label in source.classes if label != source.classes[source.samples[row].label]]
                wrong = f"{random.choice(others)}/moved-{number}{Path(name).suffix}"
                (root / name).rename(root / wrong)
                planted[kind][wrong] = source.classes[source.samples[row].label]
            else:
                data = (root / name).read_bytes()
                faults = [b"", data[: len(data) // 2], bytes(len(data)), b"<html>404</html>"]
                (root / name).write_bytes(faults[number % 4])
                planted[kind][name] = ""
    return planted


def detection_rates(found: dict, planted: dict[str, dict[str, str]]) -> dict[str, tuple[float, float]]:
    """Kind -> recall and precision of the report: share of planted faults found, and share of findings planted."""
    images = found["images"]
    pairs = {frozenset(images[row]["path"] for row in pair["rows"]): pair for pair in found["pairs"]}
    exact = {paths for paths, pair in pairs.items() if pair["equal"]}
    issues = {images[issue["row"]]["path"] for issue in found["label_issues"]}
    broken = {image["path"] for image in images if image["broken"] is not None}
    wanted = {kind: {frozenset(item) for item in planted[kind].items()} for kind in ("exact copies", "changed copies")}
    sets = {
        "exact copies": (wanted["exact copies"], exact),
        "changed copies": (wanted["changed copies"], set(pairs) - exact),
        "wrong labels": (set(planted["wrong labels"]), issues),
        "broken files": (set(planted["broken files"]), broken),
    }
    return {kind: (len(a & b) / len(a), len(a & b) / max(1, len(b))) for kind, (a, b) in sets.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="one sub-folder per class")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "images"
        planted = plant(FolderSource(options.root), root, options.seed)
        data = ImageDataModule(FolderSource(root), size=64, cache=CacheConfig(cache_dir=Path(scratch) / "cache"))
        data.setup()
        start, cpu = time.perf_counter(), time.process_time()
        found = data_report(data, embed=default_embedder())
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    console = Console()
    table = Table(title=f"{len(found['images']):,} images, compared by {found['features']}")
    for column in ("planted", "images", "found", "target", "precision"):
        table.add_column(column, justify="left" if column == "planted" else "right")
    for kind, (recall, precision) in detection_rates(found, planted).items():
        table.add_row(kind, str(len(planted[kind])), f"{recall:.1%}", f"{TARGETS[kind]:.0%}", f"{precision:.0%}")
    console.print(table)
    console.print(f"labels checked by {found['method']}; {wall:.0f} s, {cpu:.0f} s of CPU time")


if __name__ == "__main__":
    main()
