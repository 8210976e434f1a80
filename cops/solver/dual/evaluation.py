"""What a reparametrisation proves: the bound it stands for, in float64 and rounded downwards.

A feasible labelling has classes x and cuts y. Two kinds of terms may be added to its cost:

* A cycle with one edge e and others F, times an amount d >= 0: -d y_e + d (sum of y_f), which is
  never negative, as no cycle is cut once. So e's cost rises by d and those of F fall by d:
  c'_e = c_e + d, c'_f = c_f - d, and the cost in c' is no higher than the one in c.
* A message a(k) on an edge (u, v), u < v, which moves class costs between nodes.
  Where c' > 0: u's class costs fall by a and v's rise by a. That changes the cost by a(l) - a(k)
  for classes k of u and l of v: nothing if they are equal. Otherwise the edge is cut and pays c',
  so the edge leaves min(0, c' - (max a - min a)) at least.
  Where c' < 0: for classes outside P, both ends' costs rise by a(k) >= 0. The edge pays c' if it is
  cut, and two ends of one class k outside P do not cut it. Cut, it gains a(k) + a(l) with k != l,
  or two classes in P. So what it must leave is c' - sum of a, whatever is the case, as long as the
  sum is at most -c'. Of what is above, the edge leaves that much less.

Whatever the messages are, the sum over nodes of their lowest class cost, plus what the edges leave,
is below the cost of every labelling. All kernels that look for good ones may round as they like;
only what is here must be right.

Shapes: V nodes, K classes, E edges without parallel ones.
"""

from __future__ import annotations

import numpy as np

from cops.solver._jit import jit_pass


@jit_pass
def evaluate(node_costs, edges, costs, partitionable, messages, potentials, working):
    """Bound the cost of all labellings by what the messages leave.

    Args:
        node_costs: (V, K) float64.
        edges: (E, 2) int32, the smaller end first.
        costs: (E,) float64, after cycles.
        partitionable: (K,) bool.
        messages: (E, K) float32; (0, K) where there is none.
        potentials: (V, K) float64, filled with the class costs after all messages.
        working: (V, K) float32, filled with the same less the minimum of each row.

    Returns:
        The bound, and a sum that is above the magnitudes of all that was added up for it.
    """
    num_nodes, num_classes = node_costs.shape
    for v in range(num_nodes):
        for k in range(num_classes):
            potentials[v, k] = node_costs[v, k]
    bound = np.float64(0.0)
    magnitude = np.float64(0.0)
    for e in range(costs.size):
        cost = costs[e]
        left = min(cost, 0.0)
        magnitude += abs(cost)
        if messages.shape[0] > 0 and cost != 0.0:
            of_smaller, of_larger = potentials[edges[e, 0]], potentials[edges[e, 1]]
            if cost > 0.0:
                left, moved = _move(messages[e], cost, of_smaller, of_larger)
            else:
                left, moved = _raise(messages[e], cost, partitionable, of_smaller, of_larger)
            magnitude += abs(left) + moved
        bound += left
    for v in range(num_nodes):
        low = potentials[v, 0]
        for k in range(1, num_classes):
            low = min(low, potentials[v, k])
        bound += low
        magnitude += abs(low)
        for k in range(num_classes):
            working[v, k] = potentials[v, k] - low
    return bound, magnitude


@jit_pass
def _move(message, cost, of_smaller, of_larger):
    """Move class costs along an edge of positive cost.

    Returns:
        What the edge leaves, and a bound of the magnitudes that were moved.
    """
    low = high = np.float64(message[0])
    for k in range(message.size):
        a = np.float64(message[k])
        low = min(low, a)
        high = max(high, a)
        of_smaller[k] -= a
        of_larger[k] += a
    return min(0.0, cost - (high - low)), abs(low) + abs(high)


@jit_pass
def _raise(message, cost, partitionable, of_smaller, of_larger):
    """Raise class costs at both ends of an edge of negative cost; returns are those of `_move`."""
    total = np.float64(0.0)
    for k in range(message.size):
        # Whatever a kernel has written: only this is right.
        a = 0.0 if partitionable[k] else max(np.float64(message[k]), 0.0)
        total += a
        of_smaller[k] += a
        of_larger[k] += a
    return cost - total - max(0.0, total + cost), total
