"""Greedy contraction: Algorithm 2 of Abbas and Swoboda (NeurIPS 2021), exactly and fast.

`algorithm` is the entry: it contracts the edges of a checked problem. `contraction` holds the graph
that shrinks, `edge_queue` the queue that knows the next edge. Users call
`cops.solver.solve_amwc(..., method="greedy")`.
"""
