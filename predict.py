"""Label photos with a checkpoint or an exported file; no data set is needed.

python predict.py ckpt=runs/.../best.ckpt source=photo.jpg
python predict.py ckpt=model.onnx source=photos csv=answers.csv json=answers.jsonl min_confidence=0.7
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from litesort.cli.launch import launch
from litesort.cli.quoting import quote_overrides
from litesort.cli.validate import check

if TYPE_CHECKING:
    from reports.predictions import Answers


def predict(cfg: DictConfig) -> "Answers":
    """Answer every photo of `cfg.source`, in constant memory: prints, writes what is asked for, returns the counts."""
    import torch
    from rich.progress import track

    from datamodules.inference_loader import find_images, read_batches
    from deployment.formats import find_format, register
    from deployment.predictors import best_device, load_artifact
    from lightning_modules.checkpoint import load_net
    from litesort.errors import DataError
    from reports.predictions import Answers, answer_rows

    check(cfg)
    csv, json = (Path(str(name)) if name else None for name in (cfg.csv, cfg.json))
    _check_outputs(csv, json, cfg.overwrite)
    register(instantiate(cfg.get("formats")))
    if cfg.threads and find_format(str(cfg.ckpt)) is None:
        torch.set_num_threads(cfg.threads)  # other runtimes take theirs with the file
    model = load_artifact(cfg.ckpt, load_net, best_device(cfg.accelerator), cfg.threads, cfg.runtime)
    classes, square = model.record["classes"], model.record["preprocessing"]
    total = sum(1 for _ in find_images(cfg.source))  # names only: the bar has to know where it ends
    batches = read_batches(find_images(cfg.source), square["size"], square["resize"], cfg.batch_size, cfg.workers)
    try:
        with Answers(classes, csv, json, cfg.show, cfg.overwrite) as answers:
            rows = (
                row
                for files, pixels, reasons in batches
                for row in answer_rows(
                    files, reasons, model.predict(pixels).cpu().numpy() if len(pixels) else pixels, classes,
                    cfg.min_confidence,
                )
            )  # fmt: skip
            for row in track(rows, description="labelling", total=total, transient=True):
                answers.add(row)
    except FileExistsError as error:  # another process has written it meanwhile
        _check_outputs(csv, json, cfg.overwrite)
        raise DataError(f"csv={cfg.csv} json={cfg.json} cannot be written: {error.strerror or error}") from error
    except OSError as error:
        raise DataError(f"csv={cfg.csv} json={cfg.json} cannot be written: {error.strerror or error}") from error
    answers.print()
    print("".join(f"wrote {path}\n" for path in (csv, json) if path), end="")
    return answers


def _check_outputs(csv: Path | None, json: Path | None, overwrite: bool) -> None:
    """Raise DataError where csv and json are one file, or one that is there is not to be overwritten."""
    from litesort.errors import DataError

    if csv and json and csv.resolve() == json.resolve():
        raise DataError(f"csv={csv} json={json} are one file: give each a name of its own")
    for key, path in (("csv", csv), ("json", json)):
        if path and os.path.lexists(path) and not overwrite:
            raise DataError(f"{key}={path} is there already: give another name, or overwrite=true to replace it")


@hydra.main(version_base="1.3", config_path="conf", config_name="predict")
def main(cfg: DictConfig) -> None:
    """Label photos; the exit status is 0 also where some are broken."""
    predict(cfg)


if __name__ == "__main__":
    sys.argv[1:] = quote_overrides(sys.argv[1:], texts=("ckpt", "source", "csv", "json"))
    launch(main)
