"""What is trained through the solver: cost dropout, the layer around it, the loss behind it.

There are two ways. One is the surrogate of panoptic quality on the panoptic labels (Abbas, Swoboda,
NeurIPS 2021, 3.3), the other one the separate losses on class and edge labels (A.3).

Shapes: N images; K classes; D distances; h, w cells of the grid.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

from cops.layers.amwc import AmwcLayer
from cops.layers.amwc_labels import AmwcLabelsLayer
from cops.layers.cost_dropout import drop_costs
from cops.layers.perturbation import SolverSettings
from cops.losses.panoptic_quality import AREA_SLOPE, PanopticQualityLoss, true_statistics
from cops.losses.separate import SeparateLosses
from cops.solver.parallel import count_processors
from cops.targets import GRID_STRIDE, CopsTarget

logger = logging.getLogger(__name__)

# Iterations between two solves without perturbation, whose changes are only logged.
RESIDUAL_PERIOD = 20


class SolverTraining(nn.Module):
    """The losses on what the solver makes of the costs.

    Args:
        amwc: the solver as a layer.
        loss: of that layer's labels: `PanopticQualityLoss` behind `AmwcLayer`, `SeparateLosses`
            behind `AmwcLabelsLayer`.
        cost_dropout: share of the costs that are set to zero, in 0..1.
        is_thing: K flags.
    """

    @configurable
    def __init__(
        self,
        *,
        amwc: AmwcLayer | AmwcLabelsLayer,
        loss: PanopticQualityLoss | SeparateLosses,
        cost_dropout: float,
        is_thing: Sequence[bool],
    ) -> None:
        super().__init__()
        self.amwc = amwc
        self.loss = loss
        self.cost_dropout = cost_dropout
        self.is_thing = tuple(is_thing)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read MODEL.COPS.TRAINING, SOLVER, BACKWARD, LOSS and the area limits of INFERENCE.

        The limits are enlarged as images are in testing, by INPUT.TEST_SCALE.
        """
        node = cfg.MODEL.COPS
        is_thing = tuple(bool(flag) for flag in cfg.MODEL.PANOPTIC.IS_THING)
        if cfg.SOLVER.ACCUMULATE > 1 and node.MIX:
            logger.warning(
                "SOLVER.ACCUMULATE is %d and MODEL.COPS.MIX %g: gradients are scaled to a norm in "
                "each part, and the quality is the mean of that of the parts.",
                cfg.SOLVER.ACCUMULATE,
                node.MIX,
            )
        settings = SolverSettings(
            partitionable=is_thing,
            distances=tuple(node.DISTANCES),
            num_samples=node.BACKWARD.SAMPLES,
            lambda_range=tuple(node.BACKWARD.LAMBDA_RANGE),
            method=node.SOLVER.METHOD,
            num_threads=node.SOLVER.THREADS or threads_per_process(),
            warm_start=node.BACKWARD.WARM_START,
            zero=node.BACKWARD.ZERO,
            least_cells=node.LOSS.LEAST_CELLS,
        )
        if node.TRAINING == "separate":
            parts = {
                "amwc": AmwcLabelsLayer(settings),
                "loss": SeparateLosses(weight=node.LOSS.WEIGHT),
            }
        else:
            # Limits count pixels of the image, which the network may see enlarged. Smaller ones
            # would have the loss join fragments that the map leaves out for nothing.
            side = node.STRIDE / (cfg.INPUT.TEST_SCALE or 1.0)
            slope, cell_area = area_unit(node.LOSS.AREA_UNIT, side, node.LOSS.AREA_SLOPE)
            limits = area_limits_on_grid(
                is_thing,
                node.INFERENCE.THING_AREA_LIMIT,
                node.INFERENCE.STUFF_AREA_LIMIT,
                cell_area,
            )
            parts = {
                "amwc": AmwcLayer(settings),
                "loss": PanopticQualityLoss(
                    limits,
                    weight=node.LOSS.WEIGHT,
                    form=node.LOSS.FORM,
                    linear_share=node.LOSS.LINEAR_SHARE,
                    match_power=node.LOSS.MATCH_POWER,
                    area_slope=slope,
                    epsilon=node.LOSS.EPSILON,
                    count_predicted=node.LOSS.COUNT_PREDICTED,
                ),
            }
        return {**parts, "cost_dropout": node.LOSS.COST_DROPOUT, "is_thing": is_thing}

    def forward(
        self, class_costs: torch.Tensor, edge_costs: torch.Tensor, truths: Sequence[CopsTarget]
    ) -> dict[str, torch.Tensor]:
        """Solve, and compare with the truth; logs what happened to the event storage.

        Args:
            class_costs: (N, K, h, w).
            edge_costs: (N, 2 D, h, w).
            truths: of the N images, on the costs' device.

        Returns:
            Scalars: "loss_panoptic_quality", or "loss_class_labels" and "loss_edge_labels".
        """
        storage = get_event_storage()
        for name, value in self.amwc.statistics.summary().items():  # of the last step
            storage.put_scalar(f"solver/{name}", value)
        self.amwc.measure_residual = storage.iter % RESIDUAL_PERIOD == 0
        labels = self._solve(class_costs, edge_costs, truths)
        if isinstance(self.loss, SeparateLosses):
            return self.loss(*labels, truths)
        loss, details = self.loss(labels, truths)
        quality = true_statistics(labels, truths, self.loss.area_limits).quality(self.is_thing)
        storage.put_scalar("quality/true", quality.all.pq)
        # Read from the device together: each read on its own would wait for it once more.
        figures = torch.stack(
            [
                details.pq.nanmean(),
                details.true_positives.sum(),
                details.false_positives.sum(),
                details.false_negatives.sum(),
            ]
        ).tolist()
        names = ("surrogate", "true_positives", "false_positives", "false_negatives")
        for name, figure in zip(names, figures, strict=True):
            storage.put_scalar(f"quality/{name}", figure)
        return {"loss_panoptic_quality": loss}

    @torch.no_grad()
    def measure(
        self, class_costs: torch.Tensor, edge_costs: torch.Tensor, truths: Sequence[CopsTarget]
    ) -> None:
        """Solve and compare as `forward` does, for what the losses add to `BatchParts`."""
        labels = self._solve(class_costs, edge_costs, truths)
        if isinstance(self.loss, SeparateLosses):
            self.loss(*labels, truths)
        else:
            self.loss(labels, truths)

    def _solve(
        self, class_costs: torch.Tensor, edge_costs: torch.Tensor, truths: Sequence[CopsTarget]
    ) -> Any:
        """Return what `self.amwc` makes of the costs that dropout leaves."""
        # Drawn from the global generator, which is seeded for each step: a step can be repeated.
        seed = int(torch.randint(2**31 - 1, ()))
        generator = torch.Generator().manual_seed(seed)
        class_costs, edge_costs = drop_costs(
            class_costs.float(), edge_costs.float(), self.cost_dropout, generator
        )
        return self.amwc(class_costs, edge_costs, truths, generator)


class Ramp:
    """How much of the loss through the solver is trained, by the iteration.

    Args:
        shares: of the training, begin and end, in 0..1; between them it grows from 0 to 1.
        max_iter: iterations of the training.

    Raises:
        ValueError: not two ascending shares.
    """

    def __init__(self, shares: Sequence[float], max_iter: int) -> None:
        if len(shares) != 2 or not 0 <= shares[0] <= shares[1] <= 1:
            raise ValueError(
                f"MODEL.COPS.RAMP is {tuple(shares)}: give two ascending shares of the training, "
                "such as (0.7, 0.8), or () for none"
            )
        self.begin, self.end = (share * max_iter for share in shares)

    def strength(self, iteration: int) -> float:
        """Return a number in 0..1; 0 up to the begin, 1 from the end on."""
        if iteration < self.begin:
            return 0.0
        done = iteration + 1 - self.begin
        return min(1.0, done / max(self.end - self.begin, 1e-9))


def threads_per_process() -> int:
    """Return this process's share of the cores that it may use, at least one.

    The processes that train together on one machine divide its cores.
    """
    return max(1, count_processors() // comm.get_local_size())


def area_unit(
    unit: str, side: float = GRID_STRIDE, slope: float = AREA_SLOPE
) -> tuple[float, float]:
    """Return the slope of sigma (Eq. 6) per cell, and the pixels of a limit that make one cell.

    The paper gives the slope 0.1 and limits in pixels, and does not say per what the slope is. With
    0.1 per cell and a limit of 9 cells, a fragment of one cell still counts by 0.31.

    Args:
        unit: "pixel": the slope is per pixel, as the limits are. "cell": the slope is per cell, and
            limits are converted by a cell's area. "authors": the slope is per cell, and limits are
            divided by its side, as in their code; 200 pixels become 50 cells of stride 4.
        side: of a cell, in pixels of the image; the stride, where images are not enlarged.
        slope: per the unit.

    Raises:
        ValueError: another unit.
    """
    pixels = float(side**2)
    units = {
        "pixel": (slope * pixels, pixels),
        "cell": (slope, pixels),
        "authors": (slope, float(side)),
    }
    if unit not in units:
        raise ValueError(f"MODEL.COPS.LOSS.AREA_UNIT is {unit!r}: use one of {sorted(units)}")
    return units[unit]


def area_limits_on_grid(
    is_thing: Sequence[bool],
    thing_limit: float,
    stuff_limit: float,
    cell_area: float = GRID_STRIDE**2,
) -> tuple[float, ...]:
    """Convert the areas below which segments are rejected to cells of the network's grid.

    Args:
        is_thing: K flags.
        thing_limit: of things, in pixels.
        stuff_limit: of stuff, in pixels.
        cell_area: pixels that make one cell.

    Returns:
        K areas in cells.
    """
    return tuple((thing_limit if flag else stuff_limit) / cell_area for flag in is_thing)
