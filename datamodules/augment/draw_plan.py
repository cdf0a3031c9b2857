"""Group the drawn operations of all samples into passes over the batch. Runs on the host, vectorised over samples."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from datamodules.augment.mix import MixDraws

NONE, TABLES, WARP, COLOR, SHARPNESS = range(5)
# columns of a table step, with the values of the identity
IDENTITY_STEP = (256.0, 1.0, 1.0, 0.0, 0.0)
THRESHOLD, QUANTUM, FACTOR, ABOUT_MEAN, STATISTIC = range(5)
AUTOCONTRAST, EQUALIZE = 1, 2


class Pass(NamedTuple):
    """One operation on a group of samples. All fields are Python values, so that the device is not synchronised.

    Attributes:
        kind: "tables", "warp", "color", "sharpness", "flip_width", "flip_height" or "erase".
        row, rows: Offset of the group in `Draws.rows`, and number of samples.
        number: Offset of its parameters in `Draws.numbers`.
        statistical: For each table step, whether any sample has AutoContrast or Equalize there.
        contrast: Number of samples with Contrast; they come first in the group.
        counted: Slice of the group whose tables need a histogram.
    """

    kind: str
    row: int
    rows: int
    number: int
    statistical: tuple[bool, ...] = ()
    contrast: int = 0
    counted: tuple[int, int] = (0, 0)


class Draws(NamedTuple):
    """Augmentation parameters of a batch, drawn on the host and moved to the device with the batch.

    Attributes:
        rows: (M,) int64, positions in the batch, group by group.
        numbers: (K,) float32, parameters of all groups.
        passes: Passes in the order of their application.
        mix: Parameters of mixup and cutmix, or None.
    """

    rows: torch.Tensor
    numbers: torch.Tensor
    passes: tuple[Pass, ...] = ()
    mix: MixDraws | None = None

    def pin_memory(self) -> "Draws":
        """The same draws in page-locked memory, which are copied to a GPU without waiting."""
        mix = None if self.mix is None else self.mix.pin_memory()
        return self._replace(rows=self.rows.pin_memory(), numbers=self.numbers.pin_memory(), mix=mix)


@dataclass
class Slots:
    """Drawn operations of each sample in L slots: the crop first, then the operations in their drawn order.

    Attributes:
        kinds: (B, L) int, kind of operation.
        steps: (B, L, 5) float64, table steps.
        factors: (B, L) float64, factors of Color and Sharpness.
        matrices: (B, L, 3, 3) float64, from output to input coordinates.
        breaks: (B, L) bool, table operations that need the pixels themselves.
        flips: (B, 2) bool, across the width and the height.
        erase: (B, 5) float64: left, top, width, height, seed; a width of 0 erases nothing.
    """

    kinds: np.ndarray
    steps: np.ndarray
    factors: np.ndarray
    matrices: np.ndarray
    breaks: np.ndarray
    flips: np.ndarray
    erase: np.ndarray


def draw_plan(slots: Slots, mix: MixDraws | None) -> Draws:
    """Group the drawn operations into passes. Within a sample, the drawn order is kept."""
    planner = _Planner()
    flips = _fold_flips(slots)
    runs = _runs(slots)
    for run in range(runs.max(initial=-1) + 1):
        _plan_run(planner, slots, runs == run)
    planner.add("flip_width", np.flatnonzero(flips[:, 0]))
    planner.add("flip_height", np.flatnonzero(flips[:, 1]))
    erased = np.flatnonzero(slots.erase[:, 2] > 0)
    planner.add("erase", erased, slots.erase[erased])
    return planner.draws(mix)


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

    def draws(self, mix: MixDraws | None) -> Draws:
        rows, numbers = np.concatenate(self._rows), np.concatenate(self._numbers)
        return Draws(torch.from_numpy(rows), torch.from_numpy(numbers.astype(np.float32)), tuple(self._passes), mix)


def _fold_flips(slots: Slots) -> np.ndarray:
    """Merge flips into the last warp of their sample, which is equivalent; return the other flips, (B, 2) bool."""
    warps = slots.kinds == WARP
    rows = np.flatnonzero(warps.any(axis=1))
    last = warps.shape[1] - 1 - warps[rows, ::-1].argmax(axis=1)
    slots.matrices[rows, last, :, :2] *= np.where(slots.flips[rows], -1.0, 1.0)[:, None]
    flips = slots.flips.copy()
    flips[rows] = False
    return flips


def _runs(slots: Slots) -> np.ndarray:
    """Number each sample's runs of slots that form one pass: (B, L) int, -1 for empty slots."""
    runs = np.full(slots.kinds.shape, -1)
    run, last = np.full(len(runs), -1), np.zeros(len(runs), dtype=int)
    for slot in range(slots.kinds.shape[1]):
        kind = slots.kinds[:, slot]
        alone = (kind == COLOR) | (kind == SHARPNESS) | slots.breaks[:, slot]
        run = run + ((kind != NONE) & ((kind != last) | alone))
        runs[:, slot] = np.where(kind != NONE, run, -1)
        last = np.where(kind != NONE, kind, last)
    return runs


def _plan_run(planner: _Planner, slots: Slots, here: np.ndarray) -> None:
    kinds = np.where(here, slots.kinds, NONE).max(axis=1)
    _plan_tables(planner, np.flatnonzero(kinds == TABLES), slots, here)
    rows = np.flatnonzero(kinds == WARP)
    matrices = np.where(here[rows][..., None, None], slots.matrices[rows], np.eye(3))
    product = matrices[:, 0]
    for slot in range(1, matrices.shape[1]):
        product = product @ matrices[:, slot]
    planner.add("warp", rows, product[:, :2])
    for kind, name in ((COLOR, "color"), (SHARPNESS, "sharpness")):
        rows = np.flatnonzero(kinds == kind)
        planner.add(name, rows, (slots.factors[rows] * here[rows]).sum(axis=1))


def _plan_tables(planner: _Planner, rows: np.ndarray, slots: Slots, here: np.ndarray) -> None:
    steps = np.where(here[rows][..., None], slots.steps[rows], IDENTITY_STEP)
    # move each sample's steps to the front, so that few samples have later steps
    front = np.argsort(~here[rows], axis=1, kind="stable")[:, : here[rows].sum(axis=1).max(initial=0)]
    steps = np.take_along_axis(steps, front[..., None], axis=1)
    contrast = (steps[..., ABOUT_MEAN] > 0).any(axis=1)
    counts = (steps[..., STATISTIC] > 0).any(axis=1)
    # order: Contrast only, both, histogram only, neither; so each property is a slice
    kin = np.where(contrast, counts, 3 - counts)
    order = np.argsort(kin, kind="stable")
    ends = np.bincount(kin, minlength=4).cumsum().tolist()
    planner.add(
        "tables",
        rows[order],
        steps[order].swapaxes(0, 1),
        statistical=tuple(bool(step.any()) for step in steps[..., STATISTIC].T),
        contrast=ends[1],
        counted=(ends[0], ends[2]),
    )
