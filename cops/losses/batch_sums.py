"""Sums over the whole batch of a step, of which a process sees a part at a time.

Panoptic quality is a ratio of sums over a batch (Abbas, Swoboda, NeurIPS 2021, Eq. 6). Two things
divide a batch: processes (`cops.losses.processes`), and `SOLVER.ACCUMULATE`, which takes a
process's images in parts, one after another. The loss of a part needs the sums of all parts before
its backward pass, so each part is computed twice:

    parts = BatchParts(2)
    for index in range(2):              # without gradients: what each part adds
        with parts.measuring(index):
            loss_of(images[index])
    for index in range(2):              # the same values again, with the others' sums added
        with parts.training(index):
            loss_of(images[index]).backward()

Both passes have to draw the same random numbers. The losses are those of the whole batch, so the
parts' gradients add up to its gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from cops.losses.processes import num_processes, sum_over_processes


class BatchParts:
    """What each part of a batch adds to the sums of its losses.

    Args:
        count: number of parts.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._own: list[list[Tensor]] = [[] for _ in range(count)]

    @contextmanager
    def measuring(self, index: int) -> Iterator[None]:
        """Keep what the losses inside add, as part `index`; nothing is summed.

        Args:
            index: of the part, 0 .. count-1.
        """
        self._own[index] = []
        token = _ACTIVE.set(_Part(self, index, keep=True))
        try:
            yield
        finally:
            _ACTIVE.reset(token)

    @contextmanager
    def training(self, index: int) -> Iterator[None]:
        """Add the other parts' sums to those of the losses inside.

        Args:
            index: of the part.

        Raises:
            RuntimeError: the losses inside add another number of sums than when it was measured.
        """
        part = _Part(self, index, keep=False)
        token = _ACTIVE.set(part)
        try:
            yield
        finally:
            _ACTIVE.reset(token)
        if part.calls != len(self._own[index]):
            raise RuntimeError(
                f"part {index} added {part.calls} sums, and {len(self._own[index])} when measured"
            )


class _Part:
    """One part while it is computed."""

    def __init__(self, parts: BatchParts, index: int, keep: bool) -> None:
        self.parts = parts
        self.index = index
        self.keep = keep
        self.calls = 0

    def add(self, values: Tensor) -> Tensor:
        """Keep the values, or add those of the other parts to them."""
        own = self.parts._own
        if self.keep:
            own[self.index].append(values.detach().clone())
            return values
        for index, part in enumerate(own):
            if index != self.index:
                values = values + part[self.calls]
        self.calls += 1
        return values


_ACTIVE: ContextVar[_Part | None] = ContextVar("part of a batch", default=None)


def sum_over_batch(values: Tensor) -> Tensor:
    """Add up a tensor over all parts and processes; the gradient goes to this part's share.

    Args:
        values: any shape; what this part adds.

    Returns:
        The sum. While a part is measured, `values` itself.
    """
    part = _ACTIVE.get()
    if part is None:
        return sum_over_processes(values)
    added = part.add(values)
    return added if part.keep else sum_over_processes(added)


def num_shares() -> int:
    """Return by how many the trainer divides the gradients of a batch: processes times parts."""
    part = _ACTIVE.get()
    return num_processes() * (1 if part is None else part.parts.count)
