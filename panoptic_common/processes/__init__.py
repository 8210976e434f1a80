"""Signals, worker processes and temporary folders of programs; standard library and filelock."""
