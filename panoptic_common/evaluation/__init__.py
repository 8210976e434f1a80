"""From a model's output to figures."""
