"""The training loop of every system, exact and resumable."""
