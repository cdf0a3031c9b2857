"""Group the drawn slots of all samples into passes over the batch, on the host, vectorised over samples."""

from typing import Any, NamedTuple

import numpy as np
import torch

from datamodules.augment.slots import (
    ABOUT_MEAN,
    COLOR,
    ERASE,
    FACTOR,
    FILL,
    FLIP,
    IDENTITY_STEP,
    KINDS,
    MODULE,
    NO_FILL,
    NONE,
    QUANTUM,
    SHARPNESS,
    STATISTIC,
    TABLES,
    THRESHOLD,
    WARP,
    Slots,
)


class Pass(NamedTuple):
    """One operation on a group of samples. All fields are Python values, so that the device is not synchronised.

    Attributes:
        kind: "tables", "warp", "color", "sharpness", "flip_width", "flip_height", "erase", "noise" or "module".
        row, rows: Offset of the group in `Plan.rows`, and number of samples.
        number: Offset of its parameters in `Plan.numbers`.
        composed: For each table step, whether `numbers` hold a table of the step.
        statistical: For each table step, whether any sample has AutoContrast or Equalize in it.
        contrast: Number of samples with Contrast; they come first in the group.
        counted: Slice of the group whose tables need a histogram.
        module: Position of the module, for kind "module".
    """

    kind: str
    row: int
    rows: int
    number: int
    composed: tuple[bool, ...] = ()
    statistical: tuple[bool, ...] = ()
    contrast: int = 0
    counted: tuple[int, int] = (0, 0)
    module: int = 0


class Plan(NamedTuple):
    """Passes over a batch, drawn on the host and moved to the device with the batch.

    Attributes:
        rows: (M,) int64, positions in the batch, group by group.
        numbers: (K,) float32, parameters of all groups.
        passes: Passes in the order of their application.
        modules: Parameters of each pass of kind "module", in their order.
    """

    rows: torch.Tensor
    numbers: torch.Tensor
    passes: tuple[Pass, ...] = ()
    modules: tuple[Any, ...] = ()


def draw_plan(slots: Slots) -> Plan:
    """Group the drawn slots into passes. Within a sample, the drawn order is kept.

    Neighbouring warps and flips of a sample become one warp, neighbouring tables one table. Flips commute with tables,
    Color and Sharpness to the bit, so they join the nearest warp across these.
    """
    planner, start, length = _Planner(), 0, slots.kinds.shape[1]
    # operations are not reordered across erased boxes and modules: these separate blocks
    fixed = (slots.kinds == ERASE) | (slots.kinds == MODULE)
    for column in np.flatnonzero(fixed.any(axis=0)).tolist():
        _plan_block(planner, slots, start, column)
        _plan_fixed(planner, slots, column)
        start = column
    _plan_block(planner, slots, start, length)
    return planner.plan()


# The passes of a block repeat this order. It puts any two operations of a sample, in either order, few passes apart.
_ORDER = (COLOR, SHARPNESS, WARP, TABLES, WARP, SHARPNESS)
# for each kind: whether each slot needs a pass of its own
SEPARATE = np.isin(KINDS, (COLOR, SHARPNESS))
# distance from each place of `_ORDER` to the next place of each kind; 0 for kinds that are not in it
_STEPS = np.array(
    [
        [next((step for step in range(1, 7) if _ORDER[(place + step) % 6] == kind), 0) for kind in KINDS]
        for place in range(6)
    ]
)


class _Planner:
    def __init__(self) -> None:
        self._rows: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
        self._numbers: list[np.ndarray] = [np.zeros(0)]
        self._ends = (0, 0)
        self._passes: list[Pass] = []

    def add(self, kind: str, rows: np.ndarray, numbers: np.ndarray | None = None, **more: Any) -> None:
        if not len(rows):
            return
        row, number = self._ends
        self._passes.append(Pass(kind, row, len(rows), number, **more))
        self._rows.append(rows)
        self._numbers.append(np.zeros(0) if numbers is None else numbers.ravel())
        self._ends = (row + len(rows), number + self._numbers[-1].size)

    def plan(self) -> Plan:
        rows, numbers = np.concatenate(self._rows), np.concatenate(self._numbers)
        return Plan(torch.from_numpy(rows), torch.from_numpy(numbers.astype(np.float32)), tuple(self._passes))


def _plan_fixed(planner: _Planner, slots: Slots, column: int) -> None:
    """Add the erased boxes and the modules of one column of slots."""
    kinds, numbers = slots.kinds[:, column], slots.numbers[:, column]
    for noise, name in ((False, "erase"), (True, "noise")):
        rows = np.flatnonzero((kinds == ERASE) & ((numbers[:, 5] < 0) == noise))
        planner.add(name, rows, numbers[rows, :6])
    chosen = np.where(kinds == MODULE, numbers[:, 0], -1)
    for module in np.unique(chosen[chosen >= 0]).astype(int).tolist():
        planner.add("module", np.flatnonzero(chosen == module), module=module)


def _plan_block(planner: _Planner, slots: Slots, start: int, stop: int) -> None:
    """Add the passes of slots that are neither erased boxes nor modules."""
    kinds = slots.kinds[:, start:stop]
    kinds = np.where((kinds == ERASE) | (kinds == MODULE), NONE, kinds)
    used = (kinds != NONE).any(axis=0)
    if not used.any():
        return
    kinds, numbers = kinds[:, used], slots.numbers[:, start:stop][:, used]
    flips = _merge_flips(kinds, numbers) if (kinds == FLIP).any() else None
    places = _places(kinds, numbers)
    for place in np.unique(places[places >= 0]).tolist():
        _plan_pass(planner, _ORDER[place % len(_ORDER)], numbers, places == place)
    if flips is not None:
        planner.add("flip_width", np.flatnonzero(flips[:, 0]))
        planner.add("flip_height", np.flatnonzero(flips[:, 1]))


def _merge_flips(kinds: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Merge flips into the nearest warp of their sample, in place; return the other flips, (B, 2) bool.

    A merged flip leaves an empty slot. The returned flips are those of samples without a warp, of width and height.
    """
    length = kinds.shape[1]
    flips = np.zeros((len(kinds), 2), dtype=bool)
    for column in range(length):
        unmerged = kinds[:, column] == FLIP
        if not unmerged.any():
            continue
        signs = np.where(unmerged[:, None], numbers[:, column, [0, 4]], 1.0)
        kinds[unmerged, column] = NONE
        for other in (*range(column - 1, -1, -1), *range(column + 1, length)):
            here = np.flatnonzero(unmerged & (kinds[:, other] == WARP))
            if not len(here):
                continue
            matrices = numbers[here, other, :9].reshape(-1, 3, 3)
            if other < column:
                matrices[:, :, :2] *= signs[here][:, None]
            else:
                matrices[:, :2] *= signs[here][:, :, None]
            numbers[here, other, :9] = matrices.reshape(-1, 9)
            unmerged[here] = False
        flips[unmerged] ^= signs[unmerged] < 0
    return flips


def _places(kinds: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Place each slot in the sequence of passes that repeats `_ORDER`: (B, L) int, -1 for empty slots.

    Slots of a sample that form one pass have the same place. A later slot has the next place of its kind.
    """
    # Contrast depends on the result of the steps before it
    separate = SEPARATE[kinds] | ((kinds == TABLES) & (numbers[..., ABOUT_MEAN] > 0))
    full = kinds != NONE
    places = np.full(kinds.shape, -1)
    place, last = np.full(len(kinds), -1), np.zeros(len(kinds), dtype=int)
    for slot in range(kinds.shape[1]):
        kind = kinds[:, slot]
        begins = full[:, slot] & ((kind != last) | separate[:, slot])
        place = place + begins * _STEPS[place % len(_ORDER), kind]
        places[:, slot] = np.where(full[:, slot], place, -1)
        last = np.where(full[:, slot], kind, last)
    return places


def _plan_pass(planner: _Planner, kind: int, numbers: np.ndarray, here: np.ndarray) -> None:
    rows = np.flatnonzero(here.any(axis=1))
    numbers, here = numbers[rows], here[rows]
    if kind == TABLES:
        _plan_tables(planner, rows, numbers, here)
    elif kind == WARP:
        planner.add("warp", rows, _warps(numbers, here))
    else:
        planner.add("color" if kind == COLOR else "sharpness", rows, (numbers[:, :, 0] * here).sum(axis=1))


def _warps(numbers: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Multiply the matrices of each sample: (N, L, 10) and (N, L) bool -> (N, 7), two matrix rows and a grey."""
    matrices = np.where(here[..., None, None], numbers[..., :9].reshape(*here.shape, 3, 3), np.eye(3))
    product, fill = matrices[:, 0], np.full(len(here), NO_FILL)
    for slot in range(here.shape[1]):
        product = product if slot == 0 else product @ matrices[:, slot]
        fill = np.where(here[:, slot] & (numbers[:, slot, FILL] >= 0), numbers[:, slot, FILL], fill)
    return np.concatenate([product[:, :2].reshape(-1, 6), np.maximum(fill, 0)[:, None]], axis=1)


def _plan_tables(planner: _Planner, rows: np.ndarray, numbers: np.ndarray, here: np.ndarray) -> None:
    """Add a pass of tables. Numbers of each sample: Contrast's factor, the statistic of each step, tables of 256."""
    steps = np.where(here[..., None], numbers[:, :, :5], IDENTITY_STEP)
    # move each sample's steps to the front, so that few samples have later steps
    front = np.argsort(~here, axis=1, kind="stable")[:, : here.sum(axis=1).max()]
    steps = np.take_along_axis(steps, front[..., None], axis=1)
    contrast = (steps[..., ABOUT_MEAN] > 0).any(axis=1)
    counts = (steps[..., STATISTIC] > 0).any(axis=1)
    # order: Contrast only, both, histogram only, neither; so each property is a slice
    category = np.where(contrast, counts, 3 - counts)
    order = np.argsort(category, kind="stable")
    ends = np.bincount(category, minlength=4).cumsum().tolist()
    steps = steps[order]
    tables, composed = _compose(steps)
    planner.add(
        "tables",
        rows[order],
        np.concatenate([steps[:, 0, FACTOR, None], steps[..., STATISTIC], *tables], axis=1),
        composed=composed,
        statistical=tuple((steps[..., STATISTIC] > 0).max(axis=0).tolist()),
        contrast=ends[1],
        counted=(ends[0], ends[2]),
    )


def _compose(steps: np.ndarray) -> tuple[list[np.ndarray], tuple[bool, ...]]:
    """Compose the steps (N, L, 5) that do not depend on pixels.

    Returns:
        Tables (N, 256), whole numbers. The first composes all steps before a sample's first step that depends on
        pixels. Each later step with a table of its own adds one. And for each step, whether it adds a table.
    """
    pixels = (steps[..., ABOUT_MEAN] > 0) | (steps[..., STATISTIC] > 0)
    first = pointwise_tables(steps[:, 0])
    tables, composed = [first], [False]
    free = ~pixels[:, 0]
    for step in range(1, steps.shape[1]):
        table = pointwise_tables(steps[:, step])
        free &= ~pixels[:, step]
        first[free] = np.take_along_axis(table[free], first[free].astype(int), axis=1)
        apart = ~free & (steps[:, step, :3] != IDENTITY_STEP[:3]).any(axis=1)
        composed.append(bool(apart.any()))
        if composed[-1]:
            table[free] = np.arange(256)
            tables.append(table)
    return tables, tuple(composed)


def pointwise_tables(steps: np.ndarray) -> np.ndarray:
    """Tables of PIL's Solarize, Posterize and Brightness: steps (N, 5) -> (N, 256) float32, whole numbers.

    The table of Contrast, which depends on pixels, is the identity.
    """
    steps = steps.astype(np.float32)
    values = np.arange(256, dtype=np.float32)
    tables = np.where(values < steps[:, THRESHOLD, None], values, 255 - values)
    tables = np.floor(tables / steps[:, QUANTUM, None]) * steps[:, QUANTUM, None]
    factors = np.where(steps[:, ABOUT_MEAN] > 0, np.float32(1), steps[:, FACTOR])
    # as PIL's blend: float32, truncated
    return np.floor(np.clip(tables * factors[:, None], 0, 255))
