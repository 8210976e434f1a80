"""Multilevel local moving: local moves on coarser and coarser graphs, then repairs.

`algorithm` is the entry: it solves a checked problem. A graph and how its rows are read is in
`rows`, how graphs are made and contracted in `build` (with `shared_rows`) and `graph`. Connected
parts of clusters are found by `components`. Clusters are found by `sweep` (with `sums`) and
improved by `refine`, `split`, `chain` (with `wishes`) and `parts`; `cluster_numbers` keeps their
numbers. `auto`, with `force` and `departures`, goes on where this ends. `certificate` compares the
result with trivial ones. Users call `cops.solver.solve_amwc(..., method="multilevel")`.
"""
