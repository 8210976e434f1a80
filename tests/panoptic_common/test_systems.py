"""The table of systems: each entry keeps its promises, and is imported when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest
from project import ROOT

from panoptic_common.systems import SYSTEMS, add_system_config, system_package


@pytest.mark.parametrize(("name", "package"), SYSTEMS.items())
def test_a_package_offers_what_programs_use(name, package):
    found = system_package(name)
    assert found.__name__ == package
    assert callable(found.build_target_function)
    assert getattr(found, name).__name__ == name


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


def test_an_unknown_system_is_explained():
    for call in (lambda: system_package("PanopticFPN"), lambda: add_system_config(None, "")):
        with pytest.raises(ValueError, match="none of ours: give a config for one of .*COPS"):
            call()
    with pytest.raises(ValueError, match="only"):
        system_package("COPS", {"only": "this"})
