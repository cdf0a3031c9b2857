"""Read results of runs as plain rows: metrics.json of each run, in any state, and its exported files."""

import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from litesort.io import write_json
from litesort.plain_data import parse_json, parse_yaml

Row = dict[str, Any]
# Keys that an exported file's row takes from its run.
SHARED = ("name", "overrides", "model", "origin", "seed", "data", "size", "params", "macs", "git")


def gather(folder: Path) -> list[Row]:
    """Read metrics.json and exported files of every run below `folder`, in the order of paths.

    An unreadable file becomes a failed row with a reason. The folder of a job without metrics.json also becomes a
    failed row, so that no job of a sweep is missing. Rows of exported files have `file` and share other keys with
    their run.

    Args:
        folder: Folder of a run, of a sweep, or a parent of these.

    Returns:
        One row per run, each followed by one row per exported file. `folder` of a row is relative to `folder`.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: give a folder that contains runs")
    return [
        {**row, "folder": str(run.relative_to(folder))}
        for run in sorted(_runs(folder))
        for result in [_read(run)]
        for row in [result, *_exported(run, result)]
    ]


def gather_all(folders: Sequence[Path]) -> list[Row]:
    """Read the runs below several folders. A run that is found twice counts once.

    Returns:
        Rows as `gather` returns them, with `folder` relative to the working folder, or absolute.

    Raises:
        FileNotFoundError: One of the folders does not exist.
    """
    found: dict[tuple[Path, Any], Row] = {}
    for folder in folders:
        for row in gather(folder):
            run = folder / row["folder"]
            found.setdefault((run.resolve(), row.get("file")), row | {"folder": str(run)})
    return list(found.values())


def number(row: Row, *keys: str) -> float:
    """Return the value of the first key that has a finite number; NaN without one."""
    for key in keys:
        value = row.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                value = float(value)
            except OverflowError:
                continue
            if math.isfinite(value):
                return value
    return math.nan


def stage(row: Row) -> str:
    """Return the prefix of a row's metrics: "val", "train", "all", or "test", also for images from outside the run."""
    if row.get("split") in ("train", "val", "all"):
        return str(row["split"])
    return "test" if math.isfinite(number(row, "test/f1_macro")) else "val"


def split_name(row: Row) -> str:
    """Return the name of the evaluated split in reports."""
    if row.get("test_is_val"):
        return "validation split, because the data has no test split"
    names = {"all": "all images", "unseen": "images that were not trained on", "val": "validation split"}
    split = row.get("split") or stage(row)
    return names.get(split, f"{split} split")


def f1_macro(row: Row) -> float:
    """Return macro F1 on the evaluated split (test if there is one), or NaN."""
    return number(row, f"{stage(row)}/f1_macro")


def f1_by_class(row: Row) -> dict[str, float]:
    """Return the F1 of each class on the evaluated split."""
    prefix = f"{stage(row)}/f1/"
    means = (key for key in row if key.startswith(prefix) and key.removesuffix("_spread") not in row.keys() - {key})
    found = {key.removeprefix(prefix): number(row, key) for key in means}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def failed(row: Row) -> bool:
    """Return True if the row has no result, i.e. any status but "completed" ("failed", or "pruned" by a search)."""
    return row.get("status") != "completed"


def one_line(value: Any, longest: int = 200) -> str:
    """Return a value as text on one line. Control characters are removed, and long text is cut."""
    text = " ".join(str(value).split())
    text = "".join(character for character in text if character.isprintable())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def overrides(row: Row) -> list[str]:
    """Return the command-line overrides of the run, one `key=value` per item."""
    given = row.get("overrides")
    return [one_line(item) for item in given] if isinstance(given, list) else []


def fold(row: Row) -> int | None:
    """Return the fold that a run of a cross-validation was evaluated on; None for other runs."""
    given = [item.partition("=")[2] for item in overrides(row) if item.startswith("data.fold=")]
    return int(given[-1]) if given and given[-1].isdecimal() else None


def is_evaluation(row: Row) -> bool:
    """Return True for a row of evaluate.py or `export.py -m`, which has a checkpoint but no training of its own."""
    return "ckpt" in row and "seed" not in row


def runs_as(row: Row) -> str:
    """Return what was timed: name of the exported file, its runtime, or "eager" for a checkpoint; "" without a time."""
    if row.get("file"):
        return one_line(row["file"], longest=40)
    timed = math.isfinite(number(row, "latency_ms"))
    return one_line(row.get("runtime") or "eager", longest=40) if timed else ""


def model(row: Row) -> str:
    """Return the name of the row's model; if it is unknown, that of the run or its folder."""
    chosen = (item.removeprefix("model=") for item in overrides(row) if item.startswith("model="))
    name = one_line(row.get("model") or next(chosen, None) or row.get("name") or row.get("folder") or "?", longest=60)
    return f"{name} ({split_name(row)})" if row.get("split") in ("train", "val", "all") else name


def exported_as(row: Row) -> str:
    """Return run name, format and precision of an exported file; "" for the row of a run."""
    parts = (row.get("name"), row.get("format"), row.get("precision")) if row.get("file") else ()
    return one_line(" ".join(str(part) for part in parts if part), longest=60)


def newest_export(run: Path) -> Path:
    """Return the folder of the latest complete export of a run: `exported`, `exported-2`, ...

    Without a complete export the result is `exported`, which may not exist.
    """
    found = [file for file in run.glob("exported*/export.json") if re.fullmatch(r"exported(-\d+)?", file.parent.name)]
    return max(found, key=lambda file: file.stat().st_mtime_ns).parent if found else run / "exported"


def _runs(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        path = Path(parent)
        if "metrics.json" in files or ".hydra" in folders or ("export.json" in files and not _is_run(path.parent)):
            yield path
        folders[:] = [name for name in folders if not name.startswith(".") and name != "wandb"]


def _is_run(folder: Path) -> bool:
    return (folder / "metrics.json").is_file() or (folder / ".hydra").is_dir()


def _read(run: Path) -> Row:
    file = run / "metrics.json"
    if not file.is_file() and (run / "export.json").is_file() and not (run / ".hydra").is_dir():
        return _exported_checkpoint(run)
    if not file.is_file():
        return _failure("no metrics.json: the run was killed or is still running", **_requested(run))
    try:
        row = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return _failure(f"metrics.json cannot be read: {one_line(error)}", **_requested(run))
    if not isinstance(row, dict):
        return _failure(f"metrics.json is invalid: expected a mapping, but got a {type(row).__name__}")
    if row.get("status") not in ("completed", "failed", "pruned"):
        return row | _failure(f"metrics.json has the status {row.get('status')!r}")
    return row


def _exported(run: Path, result: Row) -> list[Row]:
    """Return rows of the files in the latest export.json of a run; none if it is unreadable."""
    report = _report(run)
    shared = (*SHARED, "ckpt") if is_evaluation(result) else SHARED
    known = {key: source[key] for key in shared for source in (report, result) if key in source}
    if "split" in report:
        known["split"] = report["split"]  # the export may evaluate another split than the run
    return [
        {**known, **row}
        for row in report.get("rows", [])
        if row["status"] in ("completed", "failed") and row["file"] != "checkpoint"
    ]


def _exported_checkpoint(run: Path) -> Row:
    """Return the row of the checkpoint in an export outside a run, such as a job of `export.py -m`."""
    report = _report(run)
    row = next((row for row in report.get("rows", []) if row["file"] == "checkpoint"), None)
    if row is None:
        return _failure("export.json cannot be read")
    known = {key: report[key] for key in (*SHARED, "ckpt", "split", "images") if key in report}
    result = {key: value for key, value in row.items() if key not in ("file", "path")}
    return known | result


def _report(run: Path) -> dict[str, Any]:
    """Return the content of export.json: the latest below a run, otherwise the one in the folder itself."""
    file = newest_export(run) / "export.json"
    try:
        report = parse_json((file if file.is_file() else run / "export.json").read_text(encoding="utf-8"))
        rows = [row for row in report["rows"] if isinstance(row["status"], str) and isinstance(row["file"], str)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {**report, "rows": rows}


def _failure(error: str, **known: Any) -> Row:
    return {"status": "failed", "error": error, **known}


def write_failure(
    folder: Path, known: dict[str, Any], overrides: list[str], message: str, status: str = "failed"
) -> None:
    """Write metrics.json of a job without a result.

    Args:
        folder: Folder of the job.
        known: Known keys of the row, e.g. `name`.
        overrides: Command-line overrides of the job.
        message: Reason in one line.
        status: "failed", or "pruned" for a job that a search stopped.
    """
    named = known | {"name": known.get("name") or folder.name}
    write_json(folder / "metrics.json", {"status": status, "error": message, "overrides": overrides, **named})


def _requested(run: Path) -> Row:
    """Return the overrides of a run without results, and its seed. They distinguish its row from others."""
    given = _hydra_overrides(run)
    seeds = [item.removeprefix("seed=") for item in given if item.startswith("seed=")]
    return {"overrides": given} | ({"seed": int(seeds[-1])} if seeds and seeds[-1].isdecimal() else {})


def _hydra_overrides(run: Path) -> list[str]:
    try:
        given = parse_yaml((run / ".hydra" / "overrides.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    items = [str(item) for item in given] if isinstance(given, list) else []
    return [item for item in items if not item.startswith("resume=")]  # describes how the run started, not its setting
