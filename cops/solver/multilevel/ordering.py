"""In which order seeds are tried: first what costs least, and of equal ones the earlier.

Shapes: n seeds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def ascending(costs: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """Return the places (M,) int64 of finite costs among (n,), as a stable sort would.

    Costs are seldom equal, and sorting without regard to that takes a fraction of the time.
    """
    places = np.flatnonzero(costs < np.inf)
    left = costs[places]
    order = np.argsort(left)
    in_order = left[order]
    if (in_order[1:] == in_order[:-1]).any():
        order = np.argsort(left, kind="stable")
    return places[order]
