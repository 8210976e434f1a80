"""How far a labelling is from the optimum: lower bounds of AMWC, and the optimum of small problems.

The problem is written as an integer program and handed to HiGHS through scipy (which the solvers
themselves do not need). Variables: x[v, k] = 1 if node v has class k, y[e] = 1 if edge e is cut.

    minimise  sum_vk node_costs[v, k] x[v, k]  +  sum_e edge_costs[e] y[e]

    sum_k x[v, k] = 1                                          each node has one class
    y[uv] >= sum_{k in S} (x[u, k] - x[v, k])    all S         ends of two classes: cut
    y[uv] <= 2 - x[u, k] - x[v, k]               all k not in P    both in class k: not cut
    y[e]  <= sum_{f in C, f != e} y[f]           all cycles C, e in C    no cycle is cut once

Its integer points are the feasible labellings. The clusters are the components of the uncut edges.
By the second line they have one class each; by the fourth an edge is cut only between two of them.
By the third, no edge joins two of one class outside P, so joining these is free.

There are too many sets S and cycles to write all, so those that the current solution violates most
are added until none is. For S it is {k: x[u, k] > x[v, k]}, for cycles a shortest path between the
ends of e with the lengths y. For one edge alone the second and third lines leave no slack. Relaxed
to 0 <= x, y <= 1, they describe the convex hull of what the edge's ends may do.

Two numbers come of it. The *relaxation* (a linear program) gives a certified bound. Whatever
multipliers HiGHS returns, the Lagrangian they define is minimised here in float64. That is a bound
even if HiGHS was not accurate. Then x and y are made integral (branch and bound). That raises the
bound and ends, on small problems, with the optimum, to HiGHS's tolerances (about 1e-7).

`find_bound` is meant for hundreds of nodes: planted grids of 16 x 16 take seconds, some of 24 x 24
more than a minute. The relaxation alone goes further; there it was within 0.4 % of the optimum.
`dual_bound` (of `cops.solver.dual`, which needs no scipy) is for any number of nodes.

Shapes: V nodes, K classes, E edges; the variables are numbered x row by row, then y.
"""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, linprog, milp
from scipy.sparse import csr_matrix, vstack
from scipy.sparse.csgraph import connected_components, dijkstra

from cops.solver.dual.bound import DualBound, dual_bound, gap_percent
from cops.solver.dual.links import merge_parallel
from cops.solver.labelling import Result, finish
from cops.solver.problem import Problem, check_problem

__all__ = ["Bound", "DualBound", "components", "dual_bound", "find_bound"]

Array = npt.NDArray[Any]

VIOLATION = 1e-6  # constraints violated by less count as obeyed
LARGEST_NODES = 5000  # the distances between all pairs of nodes are held in memory


class Bound(NamedTuple):
    """What is known about the optimum.

    Attributes:
        lower: no labelling costs less.
        relaxation: the certified bound of the linear relaxation, <= lower.
        optimum: a labelling of least cost, if that was found in the time; else None.
        num_constraints: how many were separated.
        seconds: spent.
        rounding: what sums of these costs in float64 may be off by.
    """

    lower: float
    relaxation: float
    optimum: Result | None
    num_constraints: int
    seconds: float
    rounding: float = 0.0

    def gap_percent(self, cost: float) -> float:
        """Return by how much a cost may exceed the optimum; see `cops.solver.dual.gap_percent`."""
        return gap_percent(self.lower, cost, 2.0 * self.rounding)


def find_bound(
    node_costs: npt.ArrayLike,
    edges: npt.ArrayLike,
    edge_costs: npt.ArrayLike,
    partitionable: npt.ArrayLike | None = None,
    *,
    time_limit: float = 60.0,
    integral: bool = True,
) -> Bound:
    """Bound the least cost of a problem from below, and find it if that is possible in the time.

    Args:
        node_costs: (V, K), as for `cops.solver.check_problem`.
        edges: (E, 2), as there.
        edge_costs: (E,), as there.
        partitionable: (K,) bools; without them the problem is MWC.
        time_limit: seconds after which no further step is begun, and HiGHS stops.
        integral: whether to go on from the relaxation to integers.

    Raises:
        ValueError: the problem is malformed, or has more than LARGEST_NODES nodes.
    """
    problem = check_problem(node_costs, edges, edge_costs, partitionable)
    if len(problem.node_costs) > LARGEST_NODES:
        raise ValueError(
            f"the problem has {len(problem.node_costs)} nodes; a bound is for small ones, of at "
            f"most {LARGEST_NODES}"
        )
    begin = time.perf_counter()
    program = _Program(problem, begin + time_limit)
    relaxation = program.relax()
    lower, optimum = relaxation, None
    if integral and program.complete:
        lower, optimum = program.solve(relaxation)
    seconds = time.perf_counter() - begin
    finite = np.where(np.isinf(problem.node_costs), 0.0, problem.node_costs)
    magnitude = np.abs(finite).sum(dtype=float) + np.abs(problem.edge_costs).sum(dtype=float)
    rounding = 2.0**-52 * (finite.size + len(problem.edges)) * float(magnitude)
    return Bound(lower, relaxation, optimum, program.num_rows, seconds, rounding)


class _Program:
    """The integer program of one problem, with the constraints that have been separated so far."""

    def __init__(self, problem: Problem, deadline: float) -> None:
        self.problem = problem
        self.deadline = deadline
        self.complete = False  # whether `relax` came to its end
        self.num_nodes, self.num_classes = problem.node_costs.shape
        self.ends, self.edge_costs = merge_parallel(problem)
        node_costs = problem.node_costs.astype(np.float64)
        possible = np.isfinite(node_costs)  # a class that costs +inf is not to be taken
        # Costs that all labellings share leave the program, or they would blur its tolerances.
        finite = np.where(possible, node_costs, np.inf)
        self.constant = float(finite.min(axis=1).sum())
        reduced = np.where(possible, node_costs - finite.min(axis=1, keepdims=True), 0.0)
        self.costs = np.concatenate([reduced.ravel(), self.edge_costs])
        self.upper = np.concatenate([possible.ravel().astype(float), np.ones(len(self.ends))])
        self.num_x = reduced.size
        nodes = np.arange(self.num_x) // self.num_classes
        self.one_class = csr_matrix(
            (np.ones(self.num_x), (nodes, np.arange(self.num_x))),
            shape=(self.num_nodes, len(self.costs)),
        )
        self.rows = csr_matrix((0, len(self.costs)))  # rows @ variables <= limits
        self.limits = np.zeros(0)

    @property
    def num_rows(self) -> int:
        return len(self.limits)

    def _time_left(self) -> float:
        return self.deadline - time.perf_counter()

    # ---- solving --------------------------------------------------------------------------------

    def relax(self) -> float:
        """Find the best certified bound of the linear relaxation."""
        best = self._lagrangian(np.zeros(0))
        while self._time_left() > 0:
            found = linprog(
                self.costs,
                A_ub=self.rows if self.num_rows else None,
                b_ub=self.limits if self.num_rows else None,
                A_eq=self.one_class,
                b_eq=np.ones(self.num_nodes),
                bounds=np.stack([np.zeros_like(self.upper), self.upper], axis=1),
                method="highs",
                options={"time_limit": self._time_left()},
            )
            if found.status != 0:  # out of time; the last bound holds
                break
            if self.num_rows:
                best = max(best, self._lagrangian(-found.ineqlin.marginals))
            if not self._separate(found.x):
                self.complete = True
                break
        return best

    def solve(self, relaxation: float) -> tuple[float, Result | None]:
        """Find the bound after branch and bound, and the optimum if it was found."""
        best = relaxation
        while self._time_left() > 0:
            found: OptimizeResult = milp(
                self.costs,
                integrality=np.ones(len(self.costs)),
                bounds=Bounds(np.zeros_like(self.upper), self.upper),
                constraints=[
                    LinearConstraint(self.one_class, 1.0, 1.0),
                    LinearConstraint(self.rows, -np.inf, self.limits),
                ]
                if self.num_rows
                else [LinearConstraint(self.one_class, 1.0, 1.0)],
                options={"time_limit": self._time_left(), "mip_rel_gap": 0.0},
            )
            # The program with some of the constraints only: what bounds it bounds the whole.
            dual = found.get("mip_dual_bound")
            if dual is not None and math.isfinite(dual):
                best = max(best, float(dual) + self.constant)
            if found.status != 0:
                break
            solution = np.round(found.x)
            if not self._separate(solution):
                optimum = self._labelling(solution)
                return min(best, optimum.energy), optimum
        return best, None

    def _lagrangian(self, multipliers: Array) -> float:
        """Minimise costs plus multipliers times violations, over one class per node, y in [0, 1].

        No labelling violates a row, so for multipliers >= 0 this is below the cost of each.
        """
        weights = np.maximum(multipliers, 0.0)
        costs = self.costs.copy()
        if len(weights):
            costs += self.rows.T @ weights
        classes = costs[: self.num_x].reshape(self.num_nodes, self.num_classes)
        possible = self.upper[: self.num_x].reshape(classes.shape) > 0
        of_nodes = np.where(possible, classes, np.inf).min(axis=1).sum()
        of_edges = np.minimum(costs[self.num_x :], 0.0).sum()
        return float(of_nodes + of_edges - weights @ self.limits + self.constant)

    def _labelling(self, solution: Array) -> Result:
        """Make the labelling of an integral solution."""
        classes = solution[: self.num_x].reshape(self.num_nodes, self.num_classes).argmax(axis=1)
        clusters = components(self.ends, solution[self.num_x :] > 0.5, self.num_nodes)
        return finish(self.problem, classes, clusters)

    # ---- separation -----------------------------------------------------------------------------

    def _separate(self, solution: Array) -> bool:
        """Add the constraints that a solution violates; tell whether there was any."""
        x = solution[: self.num_x].reshape(self.num_nodes, self.num_classes)
        y = solution[self.num_x :]
        found = (self._classes_differ(x, y), self._one_cluster(x, y), self._cycles(y))
        added = [constraints for constraints in found if constraints is not None]
        for rows, limits in added:
            self.rows = vstack([self.rows, rows], format="csr")
            self.limits = np.concatenate([self.limits, limits])
        return bool(added)

    def _classes_differ(self, x: Array, y: Array) -> tuple[csr_matrix, Array] | None:
        """Find violated sums over S of (x_u - x_v) - y <= 0, for the worst S of each edge."""
        difference = x[self.ends[:, 0]] - x[self.ends[:, 1]]
        positive = difference > 0
        violated = np.flatnonzero((difference * positive).sum(axis=1) - y > VIOLATION)
        if not len(violated):
            return None
        row, classes = np.nonzero(positive[violated])
        first, second = self.ends[violated[row]].T
        number = np.arange(len(violated))
        return self._matrix(
            np.concatenate([row, row, number]),
            np.concatenate(
                [
                    first * self.num_classes + classes,
                    second * self.num_classes + classes,
                    self.num_x + violated,
                ]
            ),
            np.concatenate([np.ones(len(row)), -np.ones(len(row)), -np.ones(len(number))]),
        ), np.zeros(len(violated))

    def _one_cluster(self, x: Array, y: Array) -> tuple[csr_matrix, Array] | None:
        """Find violated y + x_u + x_v <= 2 for an edge and a class outside P."""
        both = x[self.ends[:, 0]] + x[self.ends[:, 1]]
        both[:, self.problem.partitionable] = 0.0
        edges, classes = np.nonzero(both + y[:, None] > 2.0 + VIOLATION)
        if not len(edges):
            return None
        first, second = self.ends[edges].T
        columns = [
            first * self.num_classes + classes,
            second * self.num_classes + classes,
            self.num_x + edges,
        ]
        number = np.arange(len(edges))
        return self._matrix(
            np.tile(number, 3), np.concatenate(columns), np.ones(3 * len(edges))
        ), np.full(len(edges), 2.0)

    def _cycles(self, y: Array) -> tuple[csr_matrix, Array] | None:
        """Find violated y_e - sum of y over a shortest path between the ends of e <= 0."""
        candidates = np.flatnonzero(y > VIOLATION)
        if not len(candidates):
            return None
        lengths = np.maximum(y, 0.0) + 1e-9  # of equally short paths the one of fewest edges
        graph = csr_matrix((lengths, tuple(self.ends.T)), shape=(self.num_nodes,) * 2)
        sources, source = np.unique(self.ends[candidates, 0], return_inverse=True)
        # A path longer than 1 forbids nothing.
        distance, before = dijkstra(
            graph, directed=False, indices=sources, return_predecessors=True, limit=1.0
        )
        wrong = y[candidates] - distance[source, self.ends[candidates, 1]] > VIOLATION
        violated, source = candidates[wrong], source[wrong]
        if not len(violated):
            return None
        index = {(int(u), int(v)): e for e, (u, v) in enumerate(self.ends)}
        row, column, value = [], [], []
        for number, edge in enumerate(violated):
            u, node = (int(end) for end in self.ends[edge])
            path = [int(edge)]
            while node != u:
                previous = int(before[source[number], node])
                path.append(index[min(previous, node), max(previous, node)])
                node = previous
            row += [number] * len(path)
            column += [self.num_x + e for e in path]
            value += [1.0] + [-1.0] * (len(path) - 1)
        matrix = self._matrix(np.array(row), np.array(column), np.array(value))
        return matrix, np.zeros(len(violated))

    def _matrix(self, row: Array, column: Array, value: Array) -> csr_matrix:
        return csr_matrix((value, (row, column)), shape=(int(row.max()) + 1, len(self.costs)))


def components(edges: Array, is_cut: Array, num_nodes: int) -> Array:
    """Find the components (V,) of the graph of the edges that are not cut."""
    kept = np.asarray(edges)[~np.asarray(is_cut, dtype=bool)]
    graph = csr_matrix((np.ones(len(kept)), (kept[:, 0], kept[:, 1])), shape=(num_nodes,) * 2)
    return connected_components(graph, directed=False)[1]
