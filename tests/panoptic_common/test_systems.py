"""The table of systems: each entry keeps its promises, and is imported when it is asked for."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from project import ROOT
from stub_system import SYSTEMS as STUB

from panoptic_common.systems import (
    OTHERS,
    SYSTEMS,
    system_package,
    system_panels,
)


@pytest.mark.parametrize(("name", "package"), SYSTEMS.items())
def test_a_package_offers_what_programs_use(name, package):
    found = system_package(name)
    assert found.__name__ == package
    assert callable(found.build_target_function)
    assert getattr(found, name).__name__ == name


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_says_how_it_is_shown(name):
    panels = system_panels(name)
    assert panels.__name__ == f"{SYSTEMS[name]}.panels"
    assert {panel.name for panel in panels.PANELS} and panels.DEMO_COLUMNS


def test_panels_are_optional_but_not_broken(tmp_path, monkeypatch):
    assert system_panels("StubPanoptic", STUB).EXTRA_MAPS == ("ramp",)
    (tmp_path / "plain_system").mkdir()
    (tmp_path / "plain_system/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert system_panels("Plain", {"Plain": "plain_system"}) is None
    (tmp_path / "plain_system/panels.py").write_text("import not_installed_anywhere\n")
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        system_panels("Plain", {"Plain": "plain_system"})


@pytest.mark.parametrize("name", SYSTEMS)
def test_keys_are_added_and_the_model_registered(name):
    """In a fresh interpreter, as neither may depend on what was imported before."""
    code = (
        "import sys\n"
        "from panoptic_common.systems import add_system_config\n"
        "assert not {'torch', 'detectron2', 'cops', 'unified_panoptic'} & set(sys.modules)\n"
        "import panoptic_common.compat\n"
        "from detectron2.config import get_cfg\n"
        "from detectron2.modeling import META_ARCH_REGISTRY\n"
        "cfg = get_cfg()\n"
        f"add_system_config(cfg, {name!r})\n"
        f"assert {name!r} in META_ARCH_REGISTRY and 'PANOPTIC' in cfg.MODEL\n"
        f"others = set({list(SYSTEMS.values())!r}) - {{{SYSTEMS[name]!r}}}\n"
        "assert not others & set(sys.modules), 'another system was imported'\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr


def test_any_other_name_leads_to_the_package_for_models_of_others():
    for name in ("PanopticFPN", "a name that nobody knows"):
        assert system_package(name).__name__ == OTHERS
        assert system_panels(name) is None
    assert system_package("COPS", {"only": "this"}).__name__ == OTHERS
