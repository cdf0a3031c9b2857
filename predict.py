"""Label images with a checkpoint or an exported file; no data set is needed.

python predict.py ckpt=runs/.../best.ckpt source=photo.jpg
python predict.py ckpt=model.onnx source=photos csv=labels.csv json=labels.jsonl min_confidence=auto
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from litesort.cli.launch import launch
from litesort.cli.quoting import quote_overrides
from litesort.cli.validate import check
from litesort.errors import DataError
from litesort.preprocessing import Preprocessing

if TYPE_CHECKING:
    from deployment.predictors import Artifact
    from reports.predictions import PredictionWriter


def predict(cfg: DictConfig) -> "PredictionWriter":
    """Label every image of `cfg.source` in constant memory: print the first rows, write csv and json.

    Returns:
        The counts of classes, of rejected and of broken images.

    Raises:
        UserError: A setting, the model or the images cannot be used, or an output cannot be written.
    """
    from datamodules.inference_loader import find_images
    from reports.predictions import PredictionWriter

    check(cfg)
    csv, json = (Path(str(name)) if name else None for name in (cfg.csv, cfg.json))
    _check_outputs(csv, json, cfg.overwrite)
    model = _open_model(cfg)
    min_confidence = _min_confidence(model, cfg)
    total = sum(1 for _ in find_images(cfg.source))  # file names only, for the progress bar
    try:
        with PredictionWriter(model.card["classes"], csv, json, cfg.max_rows, cfg.overwrite) as writer:
            for row in _predicted_rows(model, cfg, min_confidence, total):
                writer.add(row)
    except OSError as error:
        if isinstance(error, FileExistsError):  # another process has written it in the meantime
            _check_outputs(csv, json, cfg.overwrite)
        raise DataError(f"csv={cfg.csv} json={cfg.json} cannot be written: {error.strerror or error}") from error
    writer.print()
    print("".join(f"wrote {path}\n" for path in (csv, json) if path), end="")
    return writer


def _open_model(cfg: DictConfig) -> "Artifact":
    """Open `cfg.ckpt` with the threads and runtime options of the config."""
    import torch

    from deployment.formats import find_format, register
    from deployment.predictors import best_device, load_artifact
    from lightning_modules.checkpoint import load_net

    register(instantiate(cfg.get("formats")))
    if cfg.threads and find_format(str(cfg.ckpt)) is None:
        torch.set_num_threads(cfg.threads)  # other runtimes get the number when the file is opened
    return load_artifact(cfg.ckpt, load_net, best_device(cfg.accelerator), cfg.threads, cfg.runtime)


def _min_confidence(model: "Artifact", cfg: DictConfig) -> float:
    """Return `cfg.min_confidence`; "auto" is the threshold that an exported file stores."""
    from reports.rejection import stored_threshold

    if cfg.min_confidence != "auto":
        return float(cfg.min_confidence)
    if (stored := stored_threshold(model.card)) is None or stored.value is None:
        raise DataError(
            f"min_confidence=auto needs a threshold, and ckpt={model.path} stores none: give a number, or a file of "
            "export.py (see threshold_note in its export.json)"
        )
    return stored.value


def _predicted_rows(model: "Artifact", cfg: DictConfig, min_confidence: float, total: int) -> Iterator[dict[str, Any]]:
    """Yield one row per image, as `reports.predictions.prediction_rows` makes it, with a progress bar."""
    from rich.progress import track

    from datamodules.inference_loader import find_images, read_batches
    from reports.predictions import prediction_rows

    classes, preprocessing = model.card["classes"], Preprocessing.from_card(model.card)
    batches = read_batches(
        find_images(cfg.source), preprocessing.size, preprocessing.resize, cfg.batch_size, cfg.workers
    )

    def rows() -> Iterator[dict[str, Any]]:
        for files, pixels, reasons in batches:
            probabilities = model.predict(pixels).cpu().numpy() if len(pixels) else pixels
            yield from prediction_rows(files, reasons, probabilities, classes, min_confidence)

    yield from track(rows(), description="predicting", total=total, transient=True)


def _check_outputs(csv: Path | None, json: Path | None, overwrite: bool) -> None:
    """Raise DataError if csv and json name the same file, or an existing file that must not be overwritten."""
    if csv and json and csv.resolve() == json.resolve():
        raise DataError(f"csv={csv} json={json} are the same file: give two names")
    for key, path in (("csv", csv), ("json", json)):
        if path and os.path.lexists(path) and not overwrite:
            raise DataError(f"{key}={path} exists: give another name, or overwrite=true to replace it")


@hydra.main(version_base="1.3", config_path="conf", config_name="predict")
def main(cfg: DictConfig) -> None:
    """Label images; broken images do not change the exit status, which is 0."""
    predict(cfg)


if __name__ == "__main__":
    sys.argv[1:] = quote_overrides(sys.argv[1:], texts=("ckpt", "source", "csv", "json"))
    launch(main)
