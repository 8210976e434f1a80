"""The ascent behind a lower bound: what bound.py does, step by step, on a checked problem.

Shapes: V nodes, K classes, E edges.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import announce_compiling
from cops.solver.dual.cycles import (
    CYCLES,
    LIMIT,
    Packing,
    make_packing,
    make_room,
    pack_long,
    pack_short,
)
from cops.solver.dual.evaluation import evaluate
from cops.solver.dual.links import simple_graph
from cops.solver.dual.messages import Passing, pass_messages
from cops.solver.multilevel.build import find_scale
from cops.solver.problem import Problem, Survey

Array = npt.NDArray[Any]

# Cycles of up to so many edges are looked for before messages pass; longer ones if K is 1.
LONGEST_CYCLE = 8
# Links that the search for cycles may visit, for each edge and besides.
VISITS_PER_EDGE, VISITS_AT_LEAST = 32, 4_000_000
# A pass that gains less than this share ends the ascent.
LEAST_GAIN = 1e-9
UNIT = 2.0**-52


class Certificate(NamedTuple):
    """What proves a bound; evaluation.py says how. All costs are those given, times `scale`.

    Attributes:
        scale: a power of two.
        node_costs: (V, K) float64, finite.
        edges: (E, 2) int32, the smaller end first, none parallel.
        edge_costs: (E,) float64, before cycles.
        partitionable: (K,) bool.
        cycle_first: (N + 1,) int64, where the edges of each cycle begin.
        cycle_edges: (S,) int32, in each cycle the edge first whose cost rises.
        cycle_amounts: (N,) float64, >= 0.
        messages: (E, K) float32; (0, K) if there are none.
    """

    scale: float
    node_costs: Array
    edges: Array
    edge_costs: Array
    partitionable: Array
    cycle_first: Array
    cycle_edges: Array
    cycle_amounts: Array
    messages: Array


class DualBound(NamedTuple):
    """A lower bound.

    Attributes:
        lower: no feasible labelling costs less.
        trivial: the bound of step 1.
        passes: that were made; fewer than allowed if they have stopped to gain.
        certificate: what proves it, if that was asked for; else None.
        seconds: spent, without those for a labelling to begin with.
        rounding: what sums of these costs in float64 may be off by. So much was taken off the
            bound, and so much the cost of a labelling may be wrong.
    """

    lower: float
    trivial: float
    passes: int
    certificate: Certificate | None
    seconds: float
    rounding: float = 0.0

    def gap_percent(self, cost: float) -> float:
        """Return by how much a cost may exceed the optimum; see the function of that name."""
        return gap_percent(self.lower, cost, 2.0 * self.rounding)


def gap_percent(lower: float, cost: float, rounding: float = 0.0) -> float:
    """Return by how much a cost exceeds a bound, in percent of the bound's magnitude.

    Args:
        lower: the bound.
        cost: of a labelling.
        rounding: what the difference of the two may be off by, as sums of float64.

    Returns:
        0 where the two differ by no more than that. +inf where they do, but the bound is 0 within
        rounding: then no percentage says anything, and the difference itself does.
    """
    gap = cost - lower
    if abs(gap) <= rounding:
        return 0.0
    if abs(lower) <= rounding:
        return math.copysign(math.inf, gap)
    return 100.0 * gap / abs(lower)


def costs_after_cycles(
    problem: Problem, survey: Survey, classes: Array, clusters: Array
) -> tuple[Array, Array]:
    """Pack cycles around what a labelling pays, and return what they leave of the edge costs.

    An edge on which cycles disagree costs little afterwards, so that contraction sees first what
    they agree on. The same problem with these costs has no labelling that costs more. It is what
    RAMA contracts (Abbas and Swoboda, CVPR 2022), with the cycles of Lange et al. (ICML 2018).

    Args:
        problem: without infinity.
        survey: of it.
        classes: (V,) of a good labelling.
        clusters: (V,) of the same.

    Returns:
        Edges (E', 2) int32 without parallel ones, smaller ends first, and costs (E',) float32.
    """
    scale = find_scale(max(survey.largest_node_cost, survey.largest_edge_cost))
    ascent = Ascent(problem, scale, classes, clusters)
    ascent.pack_cycles(0)
    return ascent.edges, (ascent.costs / scale).astype(np.float32)


class Ascent:
    """The state of one ascent.

    Args:
        problem: checked and without infinity.
        scale: a power of two by which all costs are multiplied.
        classes: (V,) of a good labelling, near which cycles are looked for.
        clusters: (V,) of the same.
    """

    def __init__(self, problem: Problem, scale: float, classes: Array, clusters: Array) -> None:
        self.begin = time.perf_counter()
        announce_compiling(make_packing)
        self.scale = scale
        self.node_costs = problem.node_costs.astype(np.float64) * scale
        self.partitionable = problem.partitionable
        num_nodes, num_classes = self.node_costs.shape
        self.edges, costs, self.links = simple_graph(problem)
        self.edge_costs = costs * scale
        self.costs = self.edge_costs  # after cycles
        self.packing: Packing = make_packing(self.edge_costs.astype(np.float32))
        self.room = make_room(num_nodes)
        self.wanted = self._wanted(classes, clusters)
        self.passing = Passing(
            np.empty((num_nodes, num_classes), np.float32),
            np.zeros((len(self.edges) if num_classes > 1 else 0, num_classes), np.float32),
            np.empty(num_classes, np.float32),
            np.empty(num_classes, np.float32),
        )
        self.potentials = np.empty((num_nodes, num_classes))
        self.rounding = 0.0  # of the last evaluation

    def _wanted(self, classes: Array, clusters: Array) -> Array:
        """List the edges for which the labelling pays, and which cycles may account for."""
        first, second = self.edges.T
        cut = clusters[first] != clusters[second]
        one_class = classes[first] == classes[second]
        pays = np.where(cut, (self.edge_costs > 0) & one_class, self.edge_costs < 0)
        return np.flatnonzero(pays)

    def run(
        self, budget: int, progress: Callable[[int, float], None] | None, certify: bool
    ) -> DualBound:
        """Ascend until the budget is spent or nothing is gained."""
        trivial = best = self._evaluate()
        certificate = self._certificate() if certify else None
        passes = 0
        while passes < budget:
            self._pass(passes)
            passes += 1
            lower = self._evaluate()
            gained = lower - best
            if gained > 0.0:
                best = lower
                certificate = self._certificate() if certify else None
            if progress is not None:
                progress(passes, best / self.scale)
            if gained <= LEAST_GAIN * abs(best) and self._is_over(passes):
                break
        seconds = time.perf_counter() - self.begin
        lower, first, rounding = (x / self.scale for x in (best, trivial, self.rounding))
        return DualBound(lower, first, passes, certificate, seconds, rounding)

    def _pass(self, number: int) -> None:
        """Make a pass: cycles in the first, or in each where there are no messages."""
        if number == 0 or len(self.passing.messages) == 0:
            self.pack_cycles(number)
        if len(self.passing.messages):
            graph = (self.edges, self.links)
            costs = self.costs.astype(np.float32)
            for forward in (True, False):
                pass_messages(forward, *graph, costs, self.partitionable, self.passing)

    def pack_cycles(self, number: int) -> None:
        """Pack what a pass finds, short cycles in the first and longer ones in each."""
        graph = (self.edges, self.links)
        self.packing.sizes[LIMIT] += VISITS_PER_EDGE * len(self.edges) + VISITS_AT_LEAST
        if number == 0:
            pack_short(*graph, self.wanted, self.packing, self.room)
        self.room.stamp[:] = -1
        pack_long(*graph, self.wanted, self._longest(number), self.packing, self.room)
        self._subtract_cycles()

    def _longest(self, number: int) -> int:
        """Return the number of edges of the longest cycles that a pass looks for."""
        return min(LONGEST_CYCLE * 4 ** min(number, 16), 2 * len(self.node_costs) + 2)

    def _is_over(self, passes: int) -> bool:
        """Tell whether a pass that has gained nothing was the last: no other will."""
        if len(self.passing.messages):
            return passes > 1
        return self._longest(passes - 1) == self._longest(passes)

    def _subtract_cycles(self) -> None:
        """Find the costs after cycles, in float64 from what was packed."""
        first, edges, amounts = self._cycles()
        change = np.repeat(-amounts, np.diff(first))
        change[first[:-1]] *= -1.0
        self.costs = self.edge_costs + np.bincount(
            edges, weights=change, minlength=len(self.edge_costs)
        )

    def _cycles(self) -> tuple[Array, Array, Array]:
        """Return where the edges of each cycle begin, the edges, and what was packed."""
        count = int(self.packing.sizes[CYCLES])
        first = self.packing.first[: count + 1].copy()
        return (
            first,
            self.packing.edge[: first[-1]].copy(),
            self.packing.amount[:count].astype(np.float64),
        )

    def _evaluate(self) -> float:
        """Return what is proved now, less what float64 may have rounded."""
        bound, magnitude = evaluate(
            self.node_costs,
            self.edges,
            self.costs,
            self.partitionable,
            self.passing.messages,
            self.potentials,
            self.passing.potentials,
        )
        magnitude += np.abs(self.edge_costs).sum()
        # No sum has more terms than that.
        terms = len(self.node_costs) + 2 * len(self.edges) + int(self.packing.first.max()) + 4
        self.rounding = float(terms * UNIT * magnitude)
        return float(bound) - self.rounding

    def _certificate(self) -> Certificate:
        return Certificate(
            self.scale,
            self.node_costs,
            self.edges,
            self.edge_costs,
            self.partitionable,
            *self._cycles(),
            self.passing.messages.copy(),
        )
