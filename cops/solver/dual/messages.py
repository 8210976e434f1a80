"""Messages along edges: what lets cheap edges tell nodes which classes their neighbours need.

A node pays for its best class only, and what other classes cost more is *slack*. A pass goes over
the nodes in order. Each gives its slack away to the nodes that come after it, in equal shares. So
these know all that nodes before them would pay. The next pass goes back. That is sequential
message passing (TRW-S: Kolmogorov, "Convergent tree-reweighted message passing", 2006), with a
node's share 1 / max(edges before, edges behind). No pass lowers the bound.

* Along an edge of cost c > 0, class costs move: what has moved may differ by c between classes
  (evaluation.py), so a share w on top of what has moved, a, gives min(a + w, c + min(a + w)).
* Take an edge of cost c < 0. A class k outside P that both ends want may be made dearer at both, by
  up to -c in sum over the classes. The edge gets back what it has taken for classes that the node
  does not want. It takes as much of the node's best class as its share of the slack allows.

Everything here is float32 and may round; evaluation.py says what it is worth.

Shapes: V nodes, K classes, E edges.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit_inline, jit_pass


class Passing(NamedTuple):
    """What the passes change, and room for one node.

    Attributes:
        potentials: (V, K) float32, class costs of the nodes after all messages.
        messages: (E, K) float32, see evaluation.py.
        slack: (K,) float32, of the node.
        share: (K,) float32, what an edge gets of it.
    """

    potentials: npt.NDArray[np.float32]
    messages: npt.NDArray[np.float32]
    slack: npt.NDArray[np.float32]
    share: npt.NDArray[np.float32]


@jit_pass
def pass_messages(forward, edges, links, costs, partitionable, passing):
    """Let each node give its slack to the nodes that come after it.

    Args:
        forward: whether nodes are taken in order, or from the last to the first.
        edges: (E, 2) int32, the smaller end first.
        links: of them.
        costs: (E,) float32, after cycles.
        partitionable: (K,) bool.
        passing: changed.
    """
    num_nodes = links.middle.size
    # Edges of negative cost have nothing to say where every class is in P.
    outside = False
    for k in range(partitionable.size):
        outside = outside or not partitionable[k]
    for i in range(num_nodes):
        v = i if forward else num_nodes - 1 - i
        best, part = _share_slack(v, links, costs, outside, passing)
        if part == 0.0:
            continue
        begin = links.middle[v] if forward else links.first[v]
        end = links.first[v + 1] if forward else links.middle[v]
        own = passing.potentials[v]
        for j in range(begin, end):
            e = links.edge[j]
            other = passing.potentials[edges[e, 1] if forward else edges[e, 0]]
            if costs[e] > 0.0:
                _give(passing.messages[e], costs[e], forward, passing.share, own, other)
            elif costs[e] < 0.0 and outside:
                free = not partitionable[best]
                _agree(passing.messages[e], costs[e], best, free, passing.share, own, other)
    return 0


@jit_inline
def _share_slack(v, links, costs, outside, passing):
    """Fill slack and share of node v; return its best class, and an edge's part (0: no edge)."""
    costs_of_v = passing.potentials[v]
    slack, share = passing.slack, passing.share
    low = costs_of_v[0]
    for k in range(1, slack.size):
        low = min(low, costs_of_v[k])
    for k in range(slack.size):
        slack[k] = costs_of_v[k] - low
    best = 0
    while slack[best] > 0.0:
        best += 1
    before = behind = 0
    for j in range(links.first[v], links.first[v + 1]):
        cost = costs[links.edge[j]]
        counts = 1 if cost > 0.0 or (outside and cost < 0.0) else 0
        if j < links.middle[v]:
            before += counts
        else:
            behind += counts
    most = max(before, behind)
    part = np.float32(1.0) / np.float32(most) if most > 0 else np.float32(0.0)
    for k in range(slack.size):
        share[k] = slack[k] * part
    return best, part


@jit_inline
def _give(message, cost, forward, share, own, other):
    """Move a share of slack along an edge of positive cost."""
    sign = np.float32(1.0) if forward else np.float32(-1.0)
    limit = sign * message[0] + share[0]
    for k in range(1, share.size):
        limit = min(limit, sign * message[k] + share[k])
    limit += cost
    for k in range(share.size):
        moved = sign * message[k]
        now = min(moved + share[k], limit)
        message[k] = sign * now
        now -= moved
        own[k] -= now
        other[k] += now


@jit_inline
def _agree(message, cost, best, free, share, own, other):
    """Renew which class outside P an edge of negative cost makes dearer at both of its ends."""
    total = np.float32(0.0)
    room = np.float32(np.inf)
    for k in range(share.size):
        back = min(message[k], share[k])
        message[k] -= back
        own[k] -= back
        other[k] -= back
        total += message[k]
        if k != best:
            room = min(room, share[k] - back)
    more = min(room, -cost - total)
    if free and more > 0.0:
        message[best] += more
        own[best] += more
        other[best] += more
