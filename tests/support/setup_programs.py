"""The set-up program and its helpers as modules, and programs run without some libraries."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
from pathlib import Path

import pytest
from project import ROOT


def load_tool(name: str) -> types.ModuleType:
    """Import a program as Python runs it: its own folder comes first on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        return importlib.import_module(name)


WITHOUT = """
import runpy, sys
for name in {hidden!r}:
    sys.modules[name] = None  # importing it raises ImportError
sys.argv = {argv!r}
sys.path[:0] = {folders!r}
runpy.run_path({argv!r}[0], run_name="__main__")
"""


def run_without(hidden: tuple[str, ...], *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process where importing some modules fails."""
    code = WITHOUT.format(
        hidden=hidden, argv=list(argv), folders=[str(Path(argv[0]).parent), str(ROOT)]
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
