"""The import rules and the house rules that a program can check, on all files that exist.

``panoptic_common`` <- ``unified_panoptic``, ``cops`` <- ``tools``, ``tests``. The two systems never
import one another. Within cops: ``solver`` <- ``layers`` <- ``modeling``. Which files may import
torch and Detectron2 is listed below; a file that joins a list should have a reason to.
"""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import ROOT

PACKAGES = ["panoptic_common", "unified_panoptic", "cops"]
SYSTEMS = [name for name in PACKAGES if name != "panoptic_common"]

# The seams to Detectron2: its configs, registries, data sets, mapper, trainer and evaluators.
MAY_IMPORT_DETECTRON2 = (
    "panoptic_common/compat.py",
    "panoptic_common/launch.py",
    "panoptic_common/amp_trainer.py",
    "panoptic_common/config.py",
    "panoptic_common/data/catalog.py",
    "panoptic_common/data/mapper.py",
    "panoptic_common/data/augmentations.py",
    "panoptic_common/evaluation/panoptic.py",
    "panoptic_common/evaluation/truth.py",
    "panoptic_common/evaluation/instances.py",
    "panoptic_common/evaluation/cityscapes.py",
    "panoptic_common/evaluation/prediction_files.py",
    "panoptic_common/drawing/overlays.py",
    "panoptic_common/evaluation/images.py",
    "panoptic_common/inference/predictor.py",
    "panoptic_common/checkpoint/checkpointer.py",
    "panoptic_common/engine/optimizer.py",
    "panoptic_common/engine/hooks.py",
    "panoptic_common/engine/trainer.py",
    "tools/studies/library/leaf_runs.py",
    "panoptic_common/modeling/network_input.py",  # makes an ImageList
    "*/config.py",
    "*/targets.py",  # builds Instances
    "*/modeling/*.py",
)
# The numpy half: usable, tested and type-checked without torch.
WITHOUT_TORCH = (
    "panoptic_common/__init__.py",
    "panoptic_common/coco/segment_ids.py",
    "panoptic_common/coco/overlaps.py",
    "panoptic_common/coco/quality.py",
    "panoptic_common/coco/annotations.py",
    "panoptic_common/coco/records.py",
    "panoptic_common/scene*.py",
    "panoptic_common/drawing/strokes.py",
    "unified_panoptic/__init__.py",
    "cops/__init__.py",
    "cops/grid_graph.py",
    "cops/solver/*.py",
)
# Importing a package must be cheap, and these modules must work where torch is not installed.
IMPORT_ALONE = (
    "panoptic_common",
    "panoptic_common.coco.segment_ids",
    "panoptic_common.coco.quality",
    "panoptic_common.scenes.storage",
    "cops.solver",
)
LONGEST_FILE = 450


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def matches(path: Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name_of(path), pattern) for pattern in patterns)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yields (absolute module name, line) of each import that runs, also inside functions."""
    package = list(path.relative_to(ROOT).parts[:-1])
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"), str(path))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            pending += node.orelse
            continue
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *(node.module or "").split(".")]).strip(".")
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def offenders(files: list[Path], *modules: str) -> list[str]:
    """Returns "file:line imports module" for each import of one of the modules or below it."""
    return sorted(
        {
            f"{name_of(path)}:{line} imports {name}"
            for path in files
            for name, line in imports(path)
            if any(name == module or name.startswith(module + ".") for module in modules)
        }
    )


def imports_compat(path: Path) -> bool:
    return path.exists() and any(name == "panoptic_common.compat" for name, _ in imports(path))


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


# --------------------------------------------------------------------------------------------
# Who imports whom
# --------------------------------------------------------------------------------------------


def test_imports_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of imports itself: relative, nested, aliased, and those for types only."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "cops" / "layers" / "amwc.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import a.b as c\n"
        "from ..solver import problem\n"
        "from . import x\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "else:\n    import one\n"
        "def f():\n    from unified_panoptic.config import y\n"
    )
    found = {name for name, _ in imports(path)}
    assert {"a.b", "cops.solver.problem", "cops.layers.x", "one"} <= found
    assert "unified_panoptic.config" in found and "torch" not in found
    assert offenders([path], "unified_panoptic")[0].startswith("cops/layers/amwc.py:10 ")
    assert offenders([path], "unified") == []  # a common beginning is not the same package


def test_there_are_files_to_check() -> None:
    assert "panoptic_common" in PACKAGES and SYSTEMS
    assert len(python_files(*PACKAGES)) > 20


def test_common_package_imports_no_system() -> None:
    assert offenders(python_files("panoptic_common"), "unified_panoptic", "cops") == []


@pytest.mark.parametrize("system", SYSTEMS)
def test_systems_never_import_one_another(system: str) -> None:
    others = {"unified_panoptic", "cops"} - {system}
    assert offenders(python_files(system), *others) == []


def test_nothing_imports_programs_or_tests() -> None:
    assert offenders(python_files(*PACKAGES, "tools"), "tools", "tests") == []
    programs = [path.stem for path in python_files("tools")]
    assert offenders(python_files(*PACKAGES), *programs) == []


def test_layers_of_cops() -> None:
    above = {
        "cops/solver": ("cops.layers", "cops.losses", "cops.modeling", "panoptic_common"),
        "cops/layers": ("cops.losses", "cops.modeling"),
        "cops/losses": ("cops.modeling",),
    }
    for folder, modules in above.items():
        assert offenders(python_files(folder), *modules) == []


def test_only_the_seams_import_detectron2() -> None:
    others = [path for path in python_files(*PACKAGES) if not matches(path, MAY_IMPORT_DETECTRON2)]
    assert others
    assert offenders(others, "detectron2") == []


def test_numpy_half_imports_neither_torch_nor_detectron2() -> None:
    files = [path for path in python_files(*PACKAGES) if matches(path, WITHOUT_TORCH)]
    assert len(files) > 5
    assert offenders(files, "torch", "torchvision", "detectron2", "fvcore") == []


def test_work_arounds_come_before_detectron2() -> None:
    """A file that imports Detectron2 while it is loaded imports `compat` in an earlier line.

    Where a package does so in its ``__init__.py``, this holds for all of its files;
    ``conftest.py`` does it for the tests.
    """
    wrong = []
    for path in python_files(*PACKAGES, "tools"):
        package = path.relative_to(ROOT).parts[0]
        if imports_compat(ROOT / package / "__init__.py"):
            continue
        lines: dict[str, int] = {}
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                lines.setdefault(name.partition(".")[0], node.lineno)
                if name == "panoptic_common.compat":
                    lines.setdefault("compat", node.lineno)
        if "detectron2" in lines and lines.get("compat", sys.maxsize) > lines["detectron2"]:
            wrong.append(f"{name_of(path)}:{lines['detectron2']}")
    assert wrong == []
    assert imports_compat(ROOT / "tests" / "conftest.py")


# --------------------------------------------------------------------------------------------
# In a fresh interpreter
# --------------------------------------------------------------------------------------------

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked by this test")
sys.meta_path.insert(0, Block())
"""


@pytest.mark.parametrize("module", IMPORT_ALONE)
def test_module_works_without_torch_and_detectron2(module: str) -> None:
    blocked = ("torch", "torchvision", "detectron2", "fvcore")
    run = run_python(BLOCK.format(blocked=blocked) + f"import {module}")
    assert run.returncode == 0, run.stderr


def test_losses_work_without_detectron2() -> None:
    blocked = ("detectron2", "fvcore")
    run = run_python(BLOCK.format(blocked=blocked) + "import unified_panoptic.losses.lovasz")
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_is_cheap(package: str) -> None:
    run = run_python(
        f"import sys, {package}\n"
        "heavy = {'torch', 'detectron2', 'cv2', 'numba', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("system", SYSTEMS)
def test_system_registers_itself_as_in_every_detectron2_project(system: str) -> None:
    name = {"unified_panoptic": "UnifiedPanoptic", "cops": "COPS"}[system]
    run = run_python(
        f"from {system} import add_{system}_config\n"
        "from detectron2.config import get_cfg\n"
        "from detectron2.modeling import META_ARCH_REGISTRY\n"
        f"add_{system}_config(get_cfg())\n"
        f"assert {name!r} in META_ARCH_REGISTRY"
    )
    assert run.returncode == 0, run.stderr


# --------------------------------------------------------------------------------------------
# House rules
# --------------------------------------------------------------------------------------------


def test_packages_do_not_print() -> None:
    """They log; programs in tools/ may print."""
    calls = [
        f"{name_of(path)}:{node.lineno}"
        for path in python_files(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("print", "breakpoint")
    ]
    assert calls == []


def test_no_module_is_called_utils() -> None:
    names = ("utils", "util", "helpers", "misc")
    files = python_files(*PACKAGES, "tools", "tests")
    assert [name_of(path) for path in files if {path.stem, path.parent.name} & set(names)] == []


def test_files_are_short_enough_to_read() -> None:
    lengths = {
        name_of(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in python_files(*PACKAGES, "tools")
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        name_of(path)
        for path in python_files(*PACKAGES, "tools", "tests")
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


def text_files() -> Iterator[Path]:
    """Yields what belongs to the project, without outputs, environments and caches."""
    suffixes = {".py", ".md", ".yaml", ".yml", ".toml", ".cfg", ".txt", ".sh", ".ipynb", ".json"}
    names = {"Makefile", ".gitignore", "run", "setup.py"}
    for folder in (*PACKAGES, "tools", "tests", "configs", "docs", ".ci"):
        yield from (
            path
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and (path.suffix in suffixes or path.name in names)
        )
    yield from (
        p for p in ROOT.iterdir() if p.is_file() and (p.suffix in suffixes or p.name in names)
    )


def test_no_path_of_one_machine() -> None:
    machine = re.compile(r"(?<![\w.:/])/(?:work|root|home|Users|tmp/v)/[\w.]")
    assert machine.search("see /" + "home/someone/data") and not machine.search("a/work/b")
    found = [
        f"{name_of(path)}:{number}"
        for path in text_files()
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1)
        if machine.search(line)
    ]
    assert found == []
