"""Modules of the command line: what is found in them, and what is refused in a sentence."""

from __future__ import annotations

import importlib
import itertools

import pytest
from detectron2.config import CfgNode

from panoptic_common.external.modules import ImportedModules, import_modules

NUMBERS = itertools.count()


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that makes a module of its own from a text, and returns its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(text: str) -> str:
        name = f"module_of_a_user_{next(NUMBERS)}"  # never one that was imported before
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return name

    return make


def keys(imported: ImportedModules) -> list[str]:
    cfg = CfgNode()
    for extend in imported.extensions:
        extend(cfg)
    return list(cfg)


ONE = "def add_my_config(cfg):\n    cfg.MY = 1\n"
TWO = (
    "def add_base_config(cfg):\n    cfg.BASE = 1\ndef add_my_config(cfg):\n    cfg.MY = cfg.BASE\n"
)


def test_the_one_function_is_found_by_itself(write):
    assert keys(import_modules([write(ONE), write("add_config_to = 3\n")])) == ["MY"]
    assert import_modules([]) == ImportedModules()
    # A second name for the same function, or for that of another module, is no second function.
    first = write(ONE + "add_the_same_config = add_my_config\n")
    second = write(f"from {first} import add_my_config\n")
    assert len(import_modules([first, second]).extensions) == 1


def test_several_functions_are_named_in_their_order(write):
    name = write(TWO)
    with pytest.raises(ValueError, match="offers add_base_config, add_my_config; name those") as e:
        import_modules([name])
    assert "\n" not in str(e.value)
    assert keys(import_modules([name], ["add_base_config", "add_my_config"])) == ["BASE", "MY"]
    imported = import_modules([name], ["add_my_config"])
    with pytest.raises(ValueError, match=r"add_my_config\(cfg\) failed: AttributeError: BASE"):
        keys(imported)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import not_installed_anywhere\n", "needs the module not_installed_anywhere: install it"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def f(:\n", "SyntaxError"),
        ("from panoptic_common import nothing_like_it\n", "ImportError: cannot import name"),
    ],
)
def test_a_module_that_does_not_load_is_explained(write, text, message):
    name = write(text)
    with pytest.raises(ValueError, match=f"--import {name}: .*{message}"):
        import_modules([name])


def test_what_is_not_there_is_explained(write):
    with pytest.raises(ValueError, match="there is no module no_such_one; .*PYTHONPATH"):
        import_modules(["no_such_one.below"])
    with pytest.raises(
        ValueError, match="--add-config add_x: nothing of that name is in no module"
    ):
        import_modules([], ["add_x"])
    name = write(ONE)
    with pytest.raises(ValueError, match=f"--add-config add_x: nothing of that name is in {name}"):
        import_modules([name], ["add_x"])
    other = write(ONE)
    with pytest.raises(ValueError, match=f"add_my_config: {name} and {other} have different ones"):
        import_modules([name, other], ["add_my_config"])


MAPPERS = """
from detectron2.config import configurable

class Plain:
    def __init__(self, cfg):
        self.given = (cfg.NAME,)

class Flagged:
    def __init__(self, cfg, is_train):
        self.given = (cfg.NAME, is_train)

class Configurable:
    @configurable
    def __init__(self, is_train=True, *, name):
        self.given = (name, is_train)

    @classmethod
    def from_config(cls, cfg, is_train=True):
        return {"name": cfg.NAME, "is_train": is_train}
"""


@pytest.mark.parametrize(
    ("name", "given"),
    [("Plain", ("a",)), ("Flagged", ("a", True)), ("Configurable", ("a", True))],
)
def test_a_mapper_is_built_as_its_signature_asks(write, name, given):
    cfg = CfgNode({"NAME": "a", "INPUT": {"MAPPER": name}})
    assert import_modules([write(MAPPERS)]).build_mapper(cfg).given == given


def test_a_mapper_comes_from_an_imported_module_alone():
    """A config, perhaps out of somebody's checkpoint, cannot have anything imported."""
    cfg = CfgNode({"INPUT": {"MAPPER": "os.system"}})
    with pytest.raises(ValueError, match="INPUT.MAPPER os.system: nothing of that name"):
        ImportedModules((importlib.import_module("os"),)).build_mapper(cfg)
