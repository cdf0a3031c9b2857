"""Line below the title: machine, threads, reference, evaluated images, and the value that rows are ranked by."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from reports.results import Row, f1_macro, failed, number, one_line, split_name

MAX_VALUES = 3  # values that are named


def conditions(ranked: Sequence[Row]) -> list[tuple[str, str]]:
    """Return name and text of each condition that is known for at least one completed row of `reports.ranking.rank`."""
    done = [row for row in ranked if not failed(row)]
    found = [
        ("machine", _several(map(_machine, done))),
        ("threads", _several(str(row.get("threads") or _clock(row).get("threads") or "") for row in done)),
        ("times relative to", _several(map(_reference, done))),
        ("tested on", _several(_images(row) for row in done if not row.get("file"))),
        ("ranked by", _several(ranked_by(row) for row in done if row["rank"] is not None)),
    ]
    return [(name, text) for name, text in found if text]


def ranked_by(row: Row) -> str:
    """Return the name of the value that a row of `reports.ranking.rank` is ranked by."""
    return {"val/score": "the score on validation images", "score": "score"}.get(str(row.get("ranked_by")), "macro F1")


def _several(texts: Iterable[str]) -> str:
    known = [one_line(text, 80) for text in dict.fromkeys(texts) if text]
    more = f" and {len(known) - MAX_VALUES} more" if len(known) > MAX_VALUES else ""
    return "; ".join(known[:MAX_VALUES]) + more


def _machine(row: Row) -> str:
    machine = row.get("machine") or _clock(row).get("machine") or ""
    if not isinstance(machine, dict):
        return str(machine)
    cores = f"{machine['cores']} cores" if machine.get("cores") else ""
    return ", ".join(str(part) for part in (machine.get("cpu"), cores) if part)


def _reference(row: Row) -> str:
    if row.get("reference"):
        return str(row["reference"])
    clock = _clock(row)
    name, entries = clock.get("reference"), clock.get("entries")
    entry = entries.get(name) if isinstance(entries, dict) and isinstance(name, str) else None
    size = f" {entry['size']} px" if isinstance(entry, dict) and entry.get("size") else ""
    return f"{name}{size}" if name else ""


def _images(row: Row) -> str:
    if not math.isfinite(f1_macro(row)):
        return ""
    count = number(row, "images")
    return split_name(row) + (f" ({count:,.0f} images)" if math.isfinite(count) else "")


def _clock(row: Row) -> dict[str, Any]:
    """Return the first latency record of a row; {} without one."""
    records = row.get("latency")
    first = records[0] if isinstance(records, list) and records else None
    return first if isinstance(first, dict) else {}
