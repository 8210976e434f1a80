"""Lower bounds of large problems by dual ascent; numpy and Numba only.

`bound` is the entry, `cycles` packs cycle inequalities, `messages` moves class costs along edges,
and `evaluation` says what all that proves. Users call `cops.solver.bounds.dual_bound`.
"""
