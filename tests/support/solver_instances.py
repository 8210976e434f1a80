"""Many small problems in few arrays, and checks of all their solutions at once.

Ten thousand solves take a second; making and checking ten thousand problems one by one would take
many. Here a *batch* is one disjoint union of graphs. Its problems are slices of shared arrays;
energy, feasibility and the trivial labellings are sums over the union, grouped by problem. They are
computed from Eq. 2 anew, without a function of the solver.

Shapes: B problems with K classes each; V nodes and E edges in all of them together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from cops.solver import Result

# How costs may look. Those in EXACT are small integers: their sums have no rounding at all.
KINDS = ("normal", "equal", "signs", "integers", "zeros", "huge", "tiny", "mixed", "denormal")
EXACT = ("equal", "signs", "integers", "zeros")
ROUNDING = 1e-12  # of the sum of all magnitudes, for the other kinds


class Batch(NamedTuple):
    """A disjoint union of problems.

    Attributes:
        node_costs: (V, K) float32 or float64; +inf = never.
        edges: (E, 2) int32, numbers of nodes within their own problem.
        edge_costs: (E,) of the same type as the node costs.
        partitionable: (B, K) bool.
        node_begin: (B + 1,) problem b has the nodes node_begin[b] .. node_begin[b + 1] - 1.
        edge_begin: (B + 1,) and so for edges.
        tolerance: of energies, times the sum of the magnitudes of a problem's costs.
    """

    node_costs: np.ndarray
    edges: np.ndarray
    edge_costs: np.ndarray
    partitionable: np.ndarray
    node_begin: np.ndarray
    edge_begin: np.ndarray
    tolerance: float

    def problems(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Arguments of `solve_amwc`, one tuple a problem; arrays are views."""
        for b, flags in enumerate(self.partitionable):
            nodes = slice(self.node_begin[b], self.node_begin[b + 1])
            ends = slice(self.edge_begin[b], self.edge_begin[b + 1])
            yield self.node_costs[nodes], self.edges[ends], self.edge_costs[ends], flags

    def without_partitionable(self) -> Batch:
        """The MWC problems of the same costs."""
        return self._replace(partitionable=np.zeros_like(self.partitionable))


def join(problems: Sequence[tuple[Any, Any, Any, Any]], tolerance: float = ROUNDING) -> Batch:
    """A batch of given problems, which must have the same K."""
    nodes, edges, costs, flags = zip(*problems, strict=True)
    return Batch(
        node_costs=np.concatenate([np.asarray(n) for n in nodes]),
        edges=np.concatenate([np.asarray(e, dtype=np.int32).reshape(-1, 2) for e in edges]),
        edge_costs=np.concatenate([np.asarray(c, dtype=float) for c in costs]),
        partitionable=np.array(flags, dtype=bool),
        node_begin=np.cumsum([0, *map(len, nodes)]),
        edge_begin=np.cumsum([0, *map(len, costs)]),
        tolerance=tolerance,
    )


def random_costs(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Costs of one of the KINDS, float64; all fit into float32, too."""
    normal = rng.normal(size=shape)
    if kind == "equal":
        return np.full(shape, float(rng.integers(-1, 2)))
    if kind == "signs":
        return np.sign(normal)
    if kind == "integers":
        return rng.integers(-3, 4, shape).astype(np.float64)
    if kind == "zeros":
        return np.where(rng.random(shape) < 0.7, 0.0, np.sign(normal))
    if kind == "mixed":
        return normal * 10.0 ** rng.uniform(-30.0, 30.0, shape)
    return normal * {"normal": 1.0, "huge": 1e30, "tiny": 1e-30, "denormal": 1e-42}[kind]


def random_batch(seed: int, size: int, max_nodes: int = 10) -> Batch:
    """`size` random graphs with 1 to `max_nodes` nodes, parallel edges among theirs.

    K, the type, the kind of the node costs and that of the edge costs are those of the whole batch.
    P is empty in a third of the problems and everything in another. In a quarter of the batches,
    some classes are forbidden (+inf) to some nodes.
    """
    rng = np.random.default_rng(seed)
    num_classes = int(rng.integers(1, 5))
    node_kind, edge_kind = rng.choice(KINDS, 2)
    num_nodes = rng.integers(1, max_nodes + 1, size)
    num_edges = np.where(num_nodes > 1, (num_nodes * rng.uniform(0, 3, size)).astype(int), 0)
    limit = np.repeat(num_nodes, num_edges)
    first = rng.integers(0, limit)
    second = (first + rng.integers(1, np.maximum(limit, 2))) % np.maximum(limit, 1)
    node_costs = random_costs(rng, str(node_kind), (int(num_nodes.sum()), num_classes))
    if rng.random() < 0.25:
        never = rng.random(node_costs.shape) < 0.3
        never[np.arange(len(never)), rng.integers(0, num_classes, len(never))] = False
        node_costs[never] = np.inf
    dtype = (np.float32, np.float64)[rng.integers(2)]
    flags = rng.random((size, num_classes)) < rng.choice([0.0, 0.5, 1.0], (size, 1))
    return Batch(
        node_costs.astype(dtype),
        np.stack([first, second], axis=1).astype(np.int32),
        random_costs(rng, str(edge_kind), (int(num_edges.sum()),)).astype(dtype),
        flags,
        np.concatenate([[0], np.cumsum(num_nodes)]),
        np.concatenate([[0], np.cumsum(num_edges)]),
        0.0 if node_kind in EXACT and edge_kind in EXACT else ROUNDING,
    )


class Verdict(NamedTuple):
    """What is wrong with the results of a batch; (B,) bools, True = wrong.

    Attributes:
        infeasible: a constraint of Eq. 2, or the numbering by first nodes, is broken.
        wrong_energy: the energy that is told is not that of the labelling.
        above_alone: worse than each node alone in its best class (one outside P joined).
        above_one_cluster: worse than all nodes in one cluster.
    """

    infeasible: np.ndarray
    wrong_energy: np.ndarray
    above_alone: np.ndarray
    above_one_cluster: np.ndarray


def judge(batch: Batch, results: Sequence[Result]) -> Verdict:
    """Check one result for each problem of a batch."""
    size, num_classes = batch.partitionable.shape
    problem_of_node = np.repeat(np.arange(size), np.diff(batch.node_begin))
    problem_of_edge = np.repeat(np.arange(size), np.diff(batch.edge_begin))
    ends = batch.edges + batch.node_begin[problem_of_edge][:, None]
    num_nodes = len(problem_of_node)
    nodes = np.arange(num_nodes)
    classes = np.concatenate([r.node_classes for r in results])
    clusters = np.concatenate([r.node_clusters for r in results])
    is_cut = np.concatenate([r.is_cut for r in results])
    told = np.array([r.energy for r in results])
    flags = batch.partitionable[problem_of_node, classes]

    def cost(node_classes: np.ndarray, cut: np.ndarray) -> np.ndarray:
        chosen = batch.node_costs[nodes, node_classes].astype(np.float64)
        edge_costs = np.where(cut, batch.edge_costs, 0.0).astype(np.float64)
        return np.bincount(problem_of_node, chosen, size) + np.bincount(
            problem_of_edge, edge_costs, size
        )

    def count_wrong(wrong: np.ndarray, problem: np.ndarray) -> np.ndarray:
        return np.bincount(problem, wrong, size) > 0

    # Numbers of one cluster must be one class, one of a class outside P at most. The first
    # node of each cluster must bring the next number.
    stride = num_nodes + num_classes
    key = problem_of_node * stride + clusters
    _, first, member = np.unique(key, return_index=True, return_inverse=True)
    several_classes = classes != classes[first][member]
    outside = np.flatnonzero(~flags)
    key_of_class = problem_of_node * num_classes + classes
    _, first_outside, same = np.unique(
        key_of_class[outside], return_index=True, return_inverse=True
    )
    split = np.zeros(num_nodes, dtype=bool)
    split[outside] = clusters[outside] != clusters[outside][first_outside][same]
    begins = np.zeros(num_nodes, dtype=np.int64)
    begins[first] = 1
    before = np.cumsum(begins) - begins
    misnumbered = (begins > 0) & (
        clusters != before - before[batch.node_begin[:-1]][problem_of_node]
    )
    wrong_cut = is_cut != (clusters[ends[:, 0]] != clusters[ends[:, 1]])
    infeasible = count_wrong(several_classes | split | misnumbered, problem_of_node)
    infeasible |= count_wrong(wrong_cut, problem_of_edge)

    finite = np.where(np.isinf(batch.node_costs), 0.0, batch.node_costs).astype(np.float64)
    scale = np.bincount(problem_of_node, np.abs(finite).sum(axis=1), size)
    scale += np.bincount(problem_of_edge, np.abs(batch.edge_costs), size)
    slack = batch.tolerance * scale
    best = batch.node_costs.argmin(axis=1)
    alone = np.where(batch.partitionable[problem_of_node, best], num_classes + nodes, best)
    together = [
        np.bincount(problem_of_node, batch.node_costs[:, k].astype(np.float64), size)
        for k in range(num_classes)
    ]
    return Verdict(
        infeasible,
        ~(np.abs(told - cost(classes, is_cut)) <= slack),
        ~(told <= cost(best, alone[ends[:, 0]] != alone[ends[:, 1]]) + slack),
        ~(told <= np.min(together, axis=0) + slack),
    )
