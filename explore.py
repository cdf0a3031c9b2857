"""Analyse a data set before training: counts, sizes, broken files, duplicates, likely wrong labels, rare images.

python explore.py data=folder data.root=photos
python explore.py data=trashnet                    with the split that training uses
"""

from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from litesort.cli import compose
from litesort.cli.build import data_builder
from litesort.cli.launch import launch
from litesort.cli.validate import check
from litesort.io import write_json


def explore(cfg: DictConfig) -> dict[str, Any]:
    """Analyse a data set: print the findings, write them into `cfg.run_dir` and return the values of explore.json."""
    from datamodules.cache import cache_folder
    from datamodules.quality.embeddings import HistogramEmbedder
    from datamodules.quality.report import data_report
    from lightning_modules.backbones.embedder import default_embedder
    from reports.dataset import print_overview, summarize, write_lists
    from reports.html.dataset import write_page

    check(cfg)
    embed = default_embedder(cache_folder(cfg.data.cache_dir)) or HistogramEmbedder()
    # Images are decoded once, at the size of the embedder. Nothing here needs `data.size`.
    data = data_builder(cfg.data)(quarantine_dir=cfg.run_dir, size=embed.size, resize=embed.resize)
    data.prepare_data()
    data.setup()
    out, report = Path(cfg.run_dir), data_report(data, embed=embed)
    results = {"data": compose.data_name(cfg), **summarize(report), **report}
    written = [write_json(out / "explore.json", results), *write_lists(out, report)]
    page = write_page(
        out / "explore.html", results, lambda row: data.source.read(row, min_side=128), cfg.max_images_per_class
    )
    print_overview(results, [*written, page])
    return results


@hydra.main(version_base="1.3", config_path="conf", config_name="explore")
def main(cfg: DictConfig) -> None:
    """Report on one data set."""
    explore(cfg)


if __name__ == "__main__":
    launch(main)
