"""Losses: pre-training, and those taken through the solver."""
