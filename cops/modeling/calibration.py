"""Balance edge costs against class costs, on training images, by the quality they give.

Pre-training takes a weighted cross-entropy of each edge by itself (Abbas, Swoboda, NeurIPS 2021,
4.2). Edges at things weigh more, and those are cut more often than others. So the logits lean
towards cutting, and the solver adds up thousands of them. Two numbers put right what is common to
all: a constant on every edge cost, and a factor on all edge costs. Two more are about distances. A
border is crossed by more long edges than short ones, so they may weigh less. The shortest edges
lean by an amount of their own. The numbers are chosen by the panoptic quality of the solutions, on
images with truth. They become part of the learned scales and offsets of `cost_scale` (which
fine-tuning through the solver would train), so that a checkpoint carries them.

Shapes: K classes; D distances; h, w cells of the network's grid; H, W pixels of the image.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cops.modeling.cost_scale import CostScale
from cops.modeling.inference import InferenceOptions, SolvedImage
from cops.solver.parallel import run_all
from panoptic_common.coco.quality import PanopticStatistics, match_segments

logger = logging.getLogger(__name__)

OFFSETS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
FACTORS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
DECAYS = (0.25, 0.5, 0.75, 1.0)
SHIFTS = (-2.0, -1.0, -0.5, 0.5, 1.0)  # times the factor: in units of the network's logits
GROWTH = 1.4  # of factors, per step
MOST_STEPS = 4  # of the climb; more brought 0.1 PQ at most on the images of the search


@dataclass(frozen=True)
class Balance:
    """What is done to all edge costs c of distance d: (d / d_1)^-decay * (factor * c + offset).

    Attributes:
        factor: of all costs.
        offset: of all costs.
        decay: by which power of the distance longer edges weigh less.
        shift: what the costs of the shortest distance d_1 get besides.
    """

    factor: float = 1.0
    offset: float = 0.0
    decay: float = 0.0
    shift: float = 0.0

    def by_distance(self, distances: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the factor and the constant of each distance, (D,) float32 both."""
        lengths = torch.tensor(distances, dtype=torch.float32)
        weights = (lengths / lengths.min()) ** -self.decay
        shifts = torch.where(lengths == lengths.min(), self.shift, 0.0)
        return self.factor * weights, self.offset * weights + shifts


@dataclass(eq=False)
class CalibrationImage:
    """One image with truth, as far as the network has brought it.

    Attributes:
        class_logits: (K, h, w).
        class_costs: (K, h, w).
        edge_costs: (2 D, h, w) before any balance.
        input_size: of the network's input without padding, in pixels.
        id_map: (H, W) true segment ids.
        segments_info: of the truth, with contiguous classes.
    """

    class_logits: torch.Tensor
    class_costs: torch.Tensor
    edge_costs: torch.Tensor
    input_size: tuple[int, int]
    id_map: npt.NDArray[np.int32]
    segments_info: list[dict[str, Any]]


class CalibrationSet:
    """Images with truth, and the quality of their solutions under a balance.

    Args:
        images: at least one.
        distances: D, in cells.
        is_thing: K flags.
        options: how panoptic maps are made; its edge offset is added after the balance.
        grid_stride: of the network's grid.
        total: adds up the sums of several processes, each of which has a share of the images, and
            maybe none.

    Raises:
        ValueError: there is no image.
    """

    def __init__(
        self,
        images: Sequence[CalibrationImage],
        *,
        distances: Sequence[int],
        is_thing: Sequence[bool],
        options: InferenceOptions,
        grid_stride: int,
        total: Callable[[PanopticStatistics], PanopticStatistics] | None = None,
    ) -> None:
        if not images and total is None:
            raise ValueError("images is empty: give at least one image to calibrate on")
        self.images = list(images)
        self.distances = tuple(distances)
        self.is_thing = tuple(bool(flag) for flag in is_thing)
        self.options = options
        self.grid_stride = grid_stride
        self.total = total

    def quality(self, balance: Balance) -> float:
        """Solve all images under a balance; returns the PQ of all classes, 0 to 1."""
        # Both directions of a distance share its numbers.
        factors, constants = (
            value.repeat_interleave(2)[:, None, None]
            for value in balance.by_distance(self.distances)
        )
        tasks = [partial(self._statistics, image, factors, constants) for image in self.images]
        sums = PanopticStatistics.zeros(len(self.is_thing))
        for part in run_all(tasks, torch.get_num_threads()):
            sums += part
        if self.total is not None:
            sums = self.total(sums)
        return sums.quality(self.is_thing).all.pq

    def _statistics(
        self, image: CalibrationImage, factors: torch.Tensor, constants: torch.Tensor
    ) -> PanopticStatistics:
        """Solve one image with balanced costs, and compare it with its truth."""
        solved = SolvedImage(
            image.class_logits,
            image.class_costs,
            factors * image.edge_costs + constants,
            distances=self.distances,
            is_thing=self.is_thing,
            input_size=image.input_size,
            output_size=(image.id_map.shape[0], image.id_map.shape[1]),
            grid_stride=self.grid_stride,
            num_threads=1,  # the images run side by side
        )
        id_map, segments = solved.panoptic(self.options)
        matches = match_segments(
            image.id_map, image.segments_info, id_map.numpy(), segments, len(self.is_thing)
        )
        return matches.statistics(len(self.is_thing))


def find_balance(
    quality: Callable[[Balance], float],
    offsets: Sequence[float] = OFFSETS,
    factors: Sequence[float] = FACTORS,
) -> tuple[Balance, dict[Balance, float]]:
    """Search the balance of the best quality, from what all edges share to what distances have.

    First come offsets, factors, and half steps of offsets. Then come decays, each also at twice the
    factor, and shifts of the shortest distance. From the best of them the search climbs by single
    steps, and by pairs: decay, factor and shift make up for one another. Equal qualities leave the
    balance as it is, so that images without a thing change nothing.

    Args:
        quality: of a balance; called once for each that is tried.
        offsets: that are tried at the factor 1.
        factors: that are tried at the best offset; the offset grows with the factor.

    Returns:
        The best balance, and the quality of each that was tried.
    """
    tried: dict[Balance, float] = {}

    def better(best: Balance, candidates: Sequence[Balance]) -> Balance:
        for candidate in [best, *candidates]:
            if candidate not in tried:
                tried[candidate] = quality(candidate)
            if tried[candidate] > tried[best]:
                best = candidate
                logger.info("PQ %.2f by %s", 100 * tried[best], best)
        return best

    best = better(Balance(), [Balance(1.0, offset) for offset in offsets])
    best = better(best, [_scaled(best, factor) for factor in factors])
    near = [replace(best, offset=best.offset + step) for step in (-0.25, 0.25)]
    common = best = better(best, near)
    slopes = [replace(_scaled(common, by), decay=decay) for decay in DECAYS for by in (1.0, 2.0)]
    best = better(best, slopes)
    best = better(best, [replace(best, shift=best.factor * shift) for shift in SHIFTS])
    for _ in range(MOST_STEPS):
        before, best = best, better(best, _neighbours(best))
        if best == before:
            break
    return best, tried


def _scaled(balance: Balance, by: float) -> Balance:
    """Multiply all costs of a balance."""
    return replace(
        balance,
        factor=balance.factor * by,
        offset=balance.offset * by,
        shift=balance.shift * by,
    )


def _neighbours(balance: Balance) -> list[Balance]:
    """List what lies one step from a balance, or two that make up for one another."""
    found = [_scaled(balance, by) for by in (1 / GROWTH, GROWTH)]
    for step in (0.25, 0.25 * min(1.0, balance.factor)):  # small costs have small offsets, too
        found += [replace(balance, offset=balance.offset + sign * step) for sign in (-1, 1)]
    shifts = [balance.shift + balance.factor * step for step in (-0.5, 0.5)]
    found += [replace(balance, shift=shift) for shift in shifts]
    for step, by in ((-0.25, 1 / GROWTH), (0.25, GROWTH)):
        if balance.decay + step >= 0:
            steeper = replace(balance, decay=balance.decay + step)
            # Long edges that weigh less leave the sum smaller: so the factor grows, too.
            found += [steeper, replace(_scaled(steeper, by), shift=balance.shift)]
            found += [replace(steeper, shift=shift) for shift in shifts]
    return found


def apply_balance(cost_scale: CostScale, balance: Balance, distances: Sequence[int]) -> None:
    """Make a balance part of the scales and offsets of a model, in place.

    The costs of an edge are -(|s| logit + o); f * c + a is the same with s times f, and o times f
    minus a.

    Args:
        cost_scale: of the model.
        balance: found for its costs.
        distances: D, in cells.
    """
    factors, constants = (
        value.to(cost_scale.edge_scale.device) for value in balance.by_distance(distances)
    )
    with torch.no_grad():
        cost_scale.edge_scale.mul_(factors)
        cost_scale.edge_offset.mul_(factors).sub_(constants)
