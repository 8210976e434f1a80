"""Another function in the place of a public one, for as long as a context lasts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock


@contextmanager
def replaced(function: Callable, replacement: Callable, *packages: str) -> Iterator[None]:
    """While the context lasts, let the Unified system's modules refer to another function.

    Args:
        function: a public one, in whichever modules it is known.
        replacement: may call it.
        *packages: further ones whose modules are looked through.
    """
    with ExitStack() as stack:
        for package, module in list(sys.modules.items()):
            if package.startswith(("unified_panoptic.", *packages)):
                for name in [n for n, value in vars(module).items() if value is function]:
                    stack.enter_context(mock.patch.object(module, name, replacement))
        yield
