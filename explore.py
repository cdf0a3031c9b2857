"""Look at a data set before training: counts, sizes, broken files, duplicates, wrong labels, rare photos.

python explore.py data=folder data.root=photos
python explore.py data=trashnet                    the split that training would make
"""

from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

import conf


def explore(cfg: DictConfig) -> dict[str, Any]:
    """Look, print and write into `cfg.run_dir`; returns what explore.json holds."""
    from hydra.utils import instantiate

    from datamodules.survey import survey
    from lightning_modules.embedding import packaged_embedding
    from reports.explore import print_overview, summarise, write_lists
    from reports.explore_page import write_page
    from reports.files import write_json

    data = instantiate(cfg.data, quarantine_dir=cfg.run_dir)
    data.prepare_data()
    data.setup()
    found, out = survey(data, embed=packaged_embedding()), Path(cfg.run_dir)
    results = {"data": conf.data_name(cfg), **summarise(found), **found}
    written = [write_json(out / "explore.json", results), *write_lists(out, found)]
    page = write_page(out / "explore.html", results, lambda row: data.source.read(row, min_side=128), cfg.sheet)
    print_overview(results, [*written, page])
    return results


@hydra.main(version_base="1.3", config_path="conf", config_name="explore")
def main(cfg: DictConfig) -> None:
    """Look at one data set."""
    explore(cfg)


if __name__ == "__main__":
    main()
