"""Losses of the Unified system."""
