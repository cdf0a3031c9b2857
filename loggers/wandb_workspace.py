"""Build the W&B dashboard of a project. Needs `pip install wandb-workspaces` or the extra `workspace`.

python -m loggers.wandb_workspace entity=me project=litesort classes=Metal,Paper
"""

import sys
from collections.abc import Sequence
from typing import Any

KEYS = ("entity", "project", "name", "classes")


def build(entity: str, project: str, name: str = "litesort", classes: Sequence[str] = ()) -> Any:
    """Build the dashboard as a `wandb_workspaces.workspaces.Workspace`. Its `save` sends it to the server.

    Sections: comparison (parallel coordinates, macro F1 against time, score), curves, F1 per class, mistakes,
    sweeps.

    Args:
        entity: User or team.
        project: Project on the server.
        name: Name of the view.
        classes: Class names; each gets a curve and a bar. Without them, one panel shows F1 of all classes.
    """
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def column(key: Any, title: str, **how: Any) -> Any:
        return wr.ParallelCoordinatesPlotColumn(key, display_name=title, **how)

    number = wr.SummaryMetric
    comparison = [
        wr.ParallelCoordinatesPlot(
            title="Settings and results",
            columns=[
                column(wr.Config("model/name"), "model"), column(wr.Config("data/size"), "size"),
                column(wr.Config("epochs"), "epochs"), column(number("macs"), "MACs", log=True),
                column(number("bytes"), "bytes", log=True), column(number("latency_ms"), "latency ms", log=True),
                column(number("test/f1_macro"), "macro F1"), column(number("score"), "score", inverted=True),
            ],
        ),
        wr.ScatterPlot(
            title="Macro F1 (validation) against time relative to the reference",
            x=number("ratio_same_runtime"), y=number("val/f1_macro"), log_x=True,
        ),
        wr.BarPlot(title="Score, lower is better", metrics=["score"]),
    ]  # fmt: skip
    step = "trainer/global_step"
    curves = [
        wr.LinePlot(title=title, x=step, y=[key])
        for title, key in (
            ("Validation macro F1", "val/f1_macro"), ("Validation loss", "val/loss"), ("Training loss", "train/loss"),
            ("Learning rate", "train/lr"), ("Calibration error", "val/ece"),
            ("Images per second", "train/images_per_second"),
        )
    ]  # fmt: skip
    by_class: list[Any] = [wr.LinePlot(title=f"F1 of {c}", x=step, y=[f"val/f1/{c}"]) for c in classes]
    by_class += [wr.BarPlot(title=f"Test F1 of {c}", metrics=[f"test/f1/{c}"]) for c in classes]
    by_class = by_class or [wr.LinePlot(title="F1 per class", x=step, metric_regex="val/f1/.*")]
    tables = ["test/mistakes", "test/per_class"]
    mistakes: list[Any] = [wr.WeavePanelSummaryTable(table_name=table) for table in tables]
    mistakes.append(wr.MediaBrowser(title="Augmented images", media_keys=["preview/augmented"]))
    sweeps = [wr.WeavePanelSummaryTable(table_name=table) for table in ("leaderboard", "pareto")]
    parts: dict[str, list[Any]] = {
        "Comparison": comparison, "Curves": curves, "F1 per class": by_class, "Mistakes": mistakes, "Sweeps": sweeps,
    }  # fmt: skip
    sections = [ws.Section(name=title, panels=panels, is_open=True) for title, panels in parts.items()]
    return ws.Workspace(entity=entity, project=project, name=name, sections=sections)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the dashboard, save it if there is an API key, and return the exit code."""
    from loggers.wandb import has_api_key

    given = dict(item.partition("=")[::2] for item in (sys.argv[1:] if arguments is None else arguments))
    if unknown := [key for key in given if key not in KEYS]:
        print(f"error: {unknown[0]} is unknown: expected one of {', '.join(KEYS)}", file=sys.stderr)
        return 2
    if not given.get("entity") or not given.get("project"):
        print(
            "error: entity and project are missing: python -m loggers.wandb_workspace entity=me project=litesort",
            file=sys.stderr,
        )
        return 2
    classes = [name for name in given.pop("classes", "").split(",") if name]
    try:
        workspace = build(**given, classes=classes)
    except ImportError as error:
        print(f"error: {error.name} is not installed: pip install wandb-workspaces", file=sys.stderr)
        return 2
    panels = sum(len(section.panels) for section in workspace.sections)
    if not has_api_key():
        print(
            f"{panels} panels in {len(workspace.sections)} sections; not saved without a W&B API key: run wandb login"
        )
        return 0
    workspace.save()
    print(workspace.url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
