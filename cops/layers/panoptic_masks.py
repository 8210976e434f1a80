"""What the layer around the solver hands to the loss: the segments of one image as masks.

Shapes: h, w cells of the grid; S true segments; J labels, that is masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cops.solver import Result


@dataclass(frozen=True, eq=False)
class PanopticMasks:
    """The panoptic labelling z of one image (Eq. 7), one mask per label.

    The first `num_predicted` masks are the segments of the solution, in the order of its clusters.
    Those that are too small for a mask are left out (`SolverSettings.least_cells`). An *empty* mask
    follows for each true segment that no prediction matches. Nothing is there yet, but the loss can
    tell, by its gradient, what should be.

    Attributes:
        masks: (J, h, w) float32, 0 or 1; it carries the gradient of the loss back to the costs.
        classes: (J,) int64 class of each mask.
        match: (J,) int64 index of the true segment that belongs to each mask, -1 if none.
        num_predicted: how many masks are segments of the solution.
        solution: what the solver found. If no segment is too small, its `node_clusters` number the
            first masks.
    """

    masks: Tensor
    classes: Tensor
    match: Tensor
    num_predicted: int
    solution: Result


def cluster_classes(solution: Result) -> npt.NDArray[np.int64]:
    """Return the (M,) class of each of a solution's M clusters."""
    classes = np.zeros(int(solution.node_clusters.max()) + 1, dtype=np.int64)
    classes[solution.node_clusters] = solution.node_classes
    return classes
