"""Write contact sheets of an augmentation, on images of a data set.

python -m datamodules.augment augment=randaugment
python -m datamodules.augment augment=trivial data=folder data.root=photos
"""

from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from litesort.cli.build import data_builder
from litesort.cli.launch import launch
from litesort.cli.validate import check


def write_sheets(cfg: DictConfig) -> list[Path]:
    """Write the contact sheets of `cfg.augment` into `cfg.run_dir`; returns their paths."""
    import numpy as np

    from datamodules.augment.contact_sheet import contact_sheets, save_sheets

    check(cfg)
    data = data_builder(cfg.data)()
    data.prepare_data()
    data.setup()
    augment: Any = data.augment
    augment.check(data.size)
    rows = data.rows[np.linspace(0, len(data.rows) - 1, min(cfg.images, len(data.rows))).astype(int)]
    sheets = contact_sheets(augment, data.read(rows), cfg.draws, cfg.level_step)
    paths = save_sheets(sheets, Path(cfg.run_dir))
    print(f"{len(paths)} sheets in {cfg.run_dir}")
    return paths


@hydra.main(version_base="1.3", config_path="../../conf", config_name="augment_sheets")
def main(cfg: DictConfig) -> None:
    """Write the contact sheets of one augmentation."""
    write_sheets(cfg)


if __name__ == "__main__":
    launch(main)
