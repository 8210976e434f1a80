"""Differentiable layers around the solver."""
