"""The W&B dashboard: the content that is sent to the server, and the command line."""

import json

import pytest

from loggers.wandb_workspace import main

pytest.importorskip("wandb_workspaces", reason="no wandb-workspaces: pip install wandb-workspaces")
pytestmark = pytest.mark.filterwarnings("ignore")


def test_dashboard_has_all_sections_and_keys():
    from loggers.wandb_workspace import build

    workspace = build("me", "recycling", classes=["can", "cup"])
    assert [section.name for section in workspace.sections] == [
        "Comparison", "Curves", "F1 per class", "Mistakes", "Sweeps",
    ]  # fmt: skip
    sent = json.loads(workspace._to_model().model_dump_json(by_alias=True))
    assert (sent["entity"], sent["project"]) == ("me", "recycling")
    panels = [
        panel for section in sent["spec"]["section"]["panelBankConfig"]["sections"] for panel in section["panels"]
    ]
    kinds = [panel["viewType"] for panel in panels]
    assert {"Parallel Coordinates Plot", "Scatter Plot", "Run History Line Plot", "Bar Chart"} <= set(kinds)
    panels_json = json.dumps(panels)
    for key in ("model/name", "latency_ms", "test/f1_macro", "val/loss", "val/f1/can", "test/mistakes", "leaderboard"):
        assert key in panels_json, key
    scatter = next(panel["config"] for panel in panels if panel["viewType"] == "Scatter Plot")
    assert (scatter["xAxis"], scatter["yAxis"]) == ("summary:ratio_same_runtime", "summary:val/f1_macro")


def test_nothing_is_saved_without_an_api_key(capsys, monkeypatch):
    import wandb_workspaces.workspaces as ws

    monkeypatch.setattr(ws.Workspace, "save", lambda self: pytest.fail("saved"))
    assert main(["entity=me", "project=recycling"]) == 0
    assert "not saved" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "hint"), [(["entity=me"], "project"), (["entity=a", "project=b", "x=1"], "x is")]
)
def test_argument_errors_are_one_line(capsys, arguments, hint):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert hint in line
