"""Doing something to a module of a library when it is imported, and not importing it before.

Detectron2's drawing code brings matplotlib along, and its engine TensorBoard: a second, which a
program that needs neither shall not pay.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

Action = Callable[[ModuleType], object]


class _Watcher(importlib.abc.MetaPathFinder):
    """Finds the modules that are waited for as Python does, and acts once they have run."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Action]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a module that is waited for; None leaves it to the other finders."""
        if fullname not in self.waiting:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        spec.loader = _ActingLoader(spec.loader, self.waiting.pop(fullname))
        return spec


class _ActingLoader(importlib.abc.Loader):
    """A loader that acts when the other one is done."""

    def __init__(self, loader: importlib.abc.Loader, actions: Sequence[Action]) -> None:
        self.loader = loader
        self.actions = actions

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Let the other loader do it."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then the actions; the module then keeps its own loader."""
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        module.__loader__ = self.loader
        self.loader.exec_module(module)
        for act in self.actions:
            act(module)


_WATCHER = _Watcher()


def when_imported(name: str, act: Action) -> None:
    """Call a function with a module: now if it is there, otherwise as soon as it is imported.

    Args:
        name: full name of a module inside a package, such as "detectron2.utils.visualizer".
        act: gets the module, with all its names.
    """
    if name in sys.modules:
        act(sys.modules[name])
        return
    if _WATCHER not in sys.meta_path:
        sys.meta_path.insert(0, _WATCHER)
    _WATCHER.waiting.setdefault(name, []).append(act)
