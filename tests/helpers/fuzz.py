"""Mutated inputs for the readers of untrusted files: images, COCO files, file lists, configs of checkpoints.

A mutation of a valid input flips, removes or repeats bytes, or inserts a token that has broken readers before. An input
fails unless the reader returns a result or raises one of its own errors within `SECONDS`.
"""

import contextlib
import io
import json
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules import images
from datamodules.sources.coco_json import read_coco
from datamodules.sources.filelist import FileListSource
from litesort.errors import DataError

SECONDS = 5
WORDS = [
    b"NaN",
    b"-1",
    b"1e999",
    b"null",
    b"\0",
    b"\xff\xfe",
    b'"',
    b"[" * 50,
    b"{",
    b"9" * 30,
    b"../",
    b"\n",
    b",",
    b"${x}",
]
Reader = Callable[[bytes], object]


def mutated(valid: bytes, random: np.random.Generator) -> bytes:
    """Apply one to eight changes to a valid input; the result is at most about four times as long."""
    data = bytearray(valid)
    for _ in range(int(random.integers(1, 9))):
        start = int(random.integers(0, len(data) + 1))
        stop = min(len(data), start + int(random.integers(1, 1 + max(1, len(data) // 4))))
        match int(random.integers(0, 6)):
            case 0 if start < len(data):
                data[start] ^= 1 << int(random.integers(0, 8))
            case 1:
                del data[start:stop]
            case 2 if len(data) < 4 * len(valid):
                data[start:start] = data[start:stop]
            case 3:
                data[start:start] = WORDS[int(random.integers(0, len(WORDS)))]
            case 4 if start < len(data):
                data[start : start + 4] = random.bytes(4)
            case _:
                data = data[: max(1, stop)] if random.random() < 0.3 else data
    return bytes(data)


def image_files() -> list[bytes]:
    """One small image in each of the usual formats."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((24, 20), Image.Resampling.BICUBIC)
    kinds = [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("WEBP", {}), ("TIFF", {})]
    kinds += [("BMP", {}), ("PPM", {}), ("TGA", {}), ("TIFF", {"compression": "tiff_lzw"})]
    files = []
    for kind, options in kinds:
        stream = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(stream, kind, **options, **({"exif": exif} if kind == "JPEG" else {}))
        files.append(stream.getvalue())
    return files


def coco() -> list[bytes]:
    """A COCO file of three images and four boxes."""
    return [
        json.dumps(
            {
                "categories": [{"id": i, "name": name} for i, name in enumerate(("can", "bag"))],
                "images": [{"id": i, "file_name": f"{i}.jpg", "width": 60, "height": 40} for i in range(3)],
                "annotations": [
                    {"id": i, "image_id": i % 3, "category_id": i % 2, "bbox": [1, 2, 20, 30.5], "iscrowd": 0}
                    for i in range(4)
                ],
            }
        ).encode()
    ]


def lists() -> list[bytes]:
    """File lists as spreadsheets write them."""
    rows = ["path,label,split,group", "a/1.jpg,can,train,x", '"a,2.jpg",bag,val,', "ü/3.jpg,can,test,y", "4.jpg,bag,,"]
    text = "\n".join(rows)
    return [text.encode(), text.replace(",", ";").encode("utf-8-sig"), text.replace("\n", "\r\n").encode()]


def configs() -> list[bytes]:
    """Data configs of checkpoints."""
    return [
        json.dumps(
            {
                "seed": 0,
                "data": {
                    "_target_": "datamodules.ImageDataModule", "size": 32, "root": "photos", "seed": "${seed}",
                    "source": {"_target_": "datamodules.sources.FolderSource", "root": "${data.root}"},
                    "sampler": "${sampler}", "augment": "${augment}",
                },
                "sampler": {"_target_": "datamodules.ShuffleSampler", "_partial_": True},
                "augment": {"_target_": "datamodules.augment.Augment", "transforms": {}},
            }
        ).encode()
    ]  # fmt: skip


def readers(folder: Path) -> dict[str, tuple[list[bytes], Reader, tuple[type[Exception], ...]]]:
    """Name -> valid inputs, the reader, and the errors that it may raise."""
    from omegaconf.errors import OmegaConfBaseException

    import datamodules.augment.pipeline
    import datamodules.datamodule  # noqa: F401  (outside the time limit of the first input)
    from litesort.cli.stored_config import stored_data
    from litesort.errors import ModelError

    def from_file(read: Callable[[Path], object]) -> Reader:
        def write_and_read(data: bytes) -> object:
            (folder / "input").write_bytes(data)
            return read(folder / "input")

        return write_and_read

    def config(data: bytes) -> object:
        stored = json.loads(data)  # plain values of any shape, as torch.load returns them
        return stored_data(stored, {}) if isinstance(stored, dict) else None

    broken = (images.BrokenImage,)
    return {
        "decoder": (image_files(), lambda data: images.load(data, 16, "pad", max_pixels=10_000_000), broken),
        "COCO reader": (coco(), from_file(read_coco), (DataError,)),
        "file list": (lists(), from_file(FileListSource), (DataError,)),
        "config": (configs(), config, (ModelError, OmegaConfBaseException, ValueError)),
    }


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError if the body takes longer."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"takes longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(name: str, inputs: int, seed: int, folder: Path) -> list[tuple[bytes, str]]:
    """Read `inputs` mutated inputs; returns those that fail, with the traceback."""
    valid, read, allowed = readers(folder)[name]
    random, failed = np.random.default_rng(seed), []
    for number in range(inputs):
        data = mutated(valid[number % len(valid)], random)
        try:
            with time_limit(SECONDS), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(data)
        except allowed:
            continue
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failed.append((data, traceback.format_exc()))
    return failed
