"""Lower bounds of large problems by dual ascent; numpy and Numba only.

`bound` is the entry, and `ascent` goes step by step. `cycles` packs cycle inequalities, `messages`
moves class costs along edges, and `evaluation` says what all that proves. `cops.solver.bounds` has
`dual_bound`, too, but needs scipy.
"""

from cops.solver.dual.bound import Certificate, DualBound, dual_bound

__all__ = ["Certificate", "DualBound", "dual_bound"]
