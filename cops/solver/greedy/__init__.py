"""Greedy contraction: Algorithm 2 of the COPS paper."""
