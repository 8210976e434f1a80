"""That the metadata in setup.py replaces nothing of a user's."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import pytest
from project import ROOT
from setup_programs import run_without


def load_program(path: Path) -> types.ModuleType:
    """Loads a program of tools/ as a module, without running it."""
    spec = importlib.util.spec_from_file_location(f"{path.stem}_under_test", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def requirements(tmp_path: Path, **replaced: object) -> dict:
    """Runs setup.py with `setup` replaced by a recorder; returns what it was given."""
    setuptools = pytest.importorskip("setuptools")
    given: dict = {}
    original = setuptools.setup
    setuptools.setup = lambda **options: given.update(options)
    try:
        load_program(ROOT / "setup.py")
    finally:
        setuptools.setup = original
    return given


def test_metadata_never_imports_torch() -> None:
    pytest.importorskip("setuptools")
    hidden = ("torch", "torchvision", "detectron2", "numpy", "cv2")
    run = run_without(hidden, str(ROOT / "setup.py"), "--version")
    assert run.returncode == 0, run.stderr
    from panoptic_common import __version__

    assert run.stdout.splitlines()[-1] == __version__


def test_metadata_replaces_nothing_of_a_user(tmp_path: Path) -> None:
    given = requirements(tmp_path)
    required = given["install_requires"]
    names = [requirement.replace(">", " ").split()[0].lower() for requirement in required]
    assert not {"detectron2", "panopticapi", "panopticapi-lite", "roof-mask"} & set(names)
    assert {"torch", "torchvision", "numpy"} <= set(names)
    # A lower bound lets pip keep what is there; an upper bound or a pin would replace it.
    bounded = [r for r in required if "<" in r or "==" in r or "~=" in r or "@" in r]
    assert all(requirement.startswith("opencv") for requirement in bounded)
    assert given["python_requires"] == ">=3.10"
    folders = {
        name for name in ("panoptic_common", "unified_panoptic", "cops") if (ROOT / name).is_dir()
    }
    assert {package.partition(".")[0] for package in given["packages"]} == folders | {
        "panoptic_tools",
        "panoptic_configs",
    }
    assert set(given["extras_require"]) >= {"test", "lint", "dev", "cityscapes", "safetensors"}


def test_installed_opencv_of_any_kind_is_kept(tmp_path: Path) -> None:
    """OpenCV's distributions overwrite one another, and new ones replace a numpy 1."""
    pytest.importorskip("setuptools")
    program = load_program_quietly(ROOT / "setup.py")
    program.site_folders = lambda: [str(tmp_path)]
    assert program.opencv_requirement() == ["opencv-python-headless>=4.8"]
    numpy = tmp_path / "numpy-1.26.4.dist-info"
    numpy.mkdir()
    (numpy / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.26.4\n")
    assert program.opencv_requirement() == ["opencv-python-headless>=4.8,<4.12"]
    (tmp_path / "cv2").mkdir()
    assert program.opencv_requirement() == []


def load_program_quietly(path: Path) -> types.ModuleType:
    """Loads setup.py without letting it run its command."""
    import setuptools

    original, setuptools.setup = setuptools.setup, lambda **options: None
    try:
        return load_program(path)
    finally:
        setuptools.setup = original
