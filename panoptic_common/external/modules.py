"""Modules that a user names on the command line, and what is taken from them.

A module is imported for what it registers with Detectron2 (meta-architectures, backbones, heads).
Besides, a function of it adds its config keys, and a class of it may be the dataset mapper of the
training. Modules are named on the command line alone. A config may come out of a checkpoint of
somebody else. It can choose among what was imported, and cannot have anything imported.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import panoptic_common.compat

from detectron2.config import CfgNode

_ADDS_KEYS = re.compile(r"add_\w*config")


@dataclass(frozen=True)
class ImportedModules:
    """What the command line names.

    Attributes:
        modules: in their order.
        extensions: functions that add keys to a config, in the order in which they are called.
    """

    modules: tuple[ModuleType, ...] = ()
    extensions: tuple[Callable[[CfgNode], object], ...] = ()

    def mapper_class(self, name: str) -> Callable[..., Any]:
        """Return the dataset mapper that INPUT.MAPPER names.

        Raises:
            ValueError: no imported module has a class of that name, or several have different ones.
        """
        return _find(self.modules, name, "INPUT.MAPPER")

    def build_mapper(self, cfg: CfgNode) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
        """Build the dataset mapper that INPUT.MAPPER names, for training."""
        mapper = self.mapper_class(cfg.INPUT.MAPPER)
        arguments = inspect.signature(getattr(mapper, "from_config", mapper)).parameters
        return mapper(cfg, True) if "is_train" in arguments else mapper(cfg)


def import_modules(names: Sequence[str], functions: Sequence[str] = ()) -> ImportedModules:
    """Import modules and find the functions that add their config keys.

    Args:
        names: of modules, as in an ``import`` statement.
        functions: names of functions in these modules; empty: the one ``add_..._config`` of each
            module that has one.

    Raises:
        ValueError: a module cannot be imported, has several such functions, or a named function is
            not there; the sentence says what to do.
    """
    modules = tuple(_import(name) for name in names)
    if functions:
        found = [_find(modules, name, "--add-config") for name in functions]
    else:
        found = [function for module in modules for function in _only_function(module)]
    extensions = tuple(_explained(function) for function in dict.fromkeys(found))
    return ImportedModules(modules, extensions)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise ValueError(
                f"--import {name}: there is no module {missing}; add the folder that holds it to "
                "PYTHONPATH"
            ) from error
        raise ValueError(f"--import {name}: it needs the module {missing}: install it") from error
    except Exception as error:  # whatever the module does while it is loaded
        raise ValueError(f"--import {name}: {type(error).__name__}: {error}") from error


def _only_function(module: ModuleType) -> list[Callable[[CfgNode], object]]:
    """Return the function of a module that adds keys, or none.

    Raises:
        ValueError: there are several.
    """
    found = {
        name: value
        for name, value in vars(module).items()
        if _ADDS_KEYS.fullmatch(name) and callable(value)
    }
    if len(set(found.values())) > 1:
        raise ValueError(
            f"--import {module.__name__}: it offers {', '.join(sorted(found))}; name those to "
            "call, in their order, by --add-config"
        )
    return list(found.values())[:1]


def _find(modules: Sequence[ModuleType], name: str, asked_by: str) -> Any:
    """Find what some module calls by a name; that several have it must mean one and the same."""
    found = {module.__name__: vars(module)[name] for module in modules if name in vars(module)}
    found = {place: value for place, value in found.items() if callable(value)}
    if not found:
        places = ", ".join(module.__name__ for module in modules) or "no module: use --import"
        raise ValueError(f"{asked_by} {name}: nothing of that name is in {places}")
    first = next(iter(found.values()))
    if any(value is not first for value in found.values()):
        raise ValueError(f"{asked_by} {name}: {' and '.join(found)} have different ones")
    return first


def _explained(add_keys: Callable[[CfgNode], object]) -> Callable[[CfgNode], object]:
    """Turn an error of a function that adds keys into one sentence."""

    def extend(cfg: CfgNode) -> None:
        try:
            add_keys(cfg)
        except Exception as error:
            name = getattr(add_keys, "__name__", str(add_keys))
            raise ValueError(f"{name}(cfg) failed: {type(error).__name__}: {error}") from error

    return extend
