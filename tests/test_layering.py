"""The import rules, by folder.

`TABLE` is the whole law: a room imports rooms of lower floors and itself, nothing else of the
project. A file that belongs to no room, an arrow that runs up, and a circle of files are errors.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from project import ROOT

NUMPY_ONLY = ("torch", "torchvision", "detectron2", "fvcore")
NO_DETECTRON2 = ("detectron2", "fvcore")


class Row(NamedTuple):
    """Rooms of one floor, and libraries that they never import."""

    floor: int
    rooms: str
    never: tuple[str, ...] = ()


# Folders and files of a row are separated by blanks; {a,b} names several.
TABLE = (
    Row(
        1,
        "panoptic_common.{files,plain_yaml,systems,values,drawing,processes} cops.grid_graph",
        NUMPY_ONLY,
    ),
    Row(2, "panoptic_common.{coco,runtime} cops.solver", NUMPY_ONLY),
    Row(2, "panoptic_common.compat"),
    Row(3, "panoptic_common.scenes {cops,unified_panoptic}.runtime", NUMPY_ONLY),
    Row(3, "panoptic_common.{checkpoint,modeling}"),
    Row(4, "panoptic_common.data"),
    Row(5, "panoptic_common.{config,evaluation,register_datasets}"),
    Row(6, "panoptic_common.{inference,engine,external}"),
    Row(
        7, "unified_panoptic.{config,targets,matching} cops.{config,targets,finetune,authors_names}"
    ),
    Row(7, "unified_panoptic.losses", NO_DETECTRON2),
    Row(8, "cops.layers", NO_DETECTRON2),
    Row(9, "cops.losses", NO_DETECTRON2),
    Row(10, "{unified_panoptic,cops}.modeling"),
    Row(11, "unified_panoptic.{panels,thresholds} cops.{panels,thresholds,calibrate}"),
    Row(12, "panoptic_tools"),
)
SYSTEM_PACKAGES = {"unified_panoptic", "cops"}
PACKAGES = ("panoptic_common", "unified_panoptic", "cops")
FOLDERS = {**{name: name for name in PACKAGES}, "panoptic_tools": "tools"}  # as imported: as stored
# What a system calls its own; panoptic_common knows none of it but the table in systems.py. Nor
# does it know which models of others are trained with it.
NAMES_OF_SYSTEMS = re.compile(
    r"unified|\bcops\b|affinit|cut_edges|\bamwc\b|multiway|dynamic potential"
    r"|panoptic[ _-]?fpn|panoptic[ _-]?deeplab|mask2?former",
    re.IGNORECASE,
)


# ---- reading the code ----------------------------------------------------------------------------


def expand(rooms: str) -> list[str]:
    """List the rooms of a row, braces resolved."""
    found = []
    for word in rooms.split():
        match = re.fullmatch(r"(.*)\{(.*)\}(.*)", word)
        parts = match.group(2).split(",") if match else [""]
        found += [f"{match.group(1)}{part}{match.group(3)}" if match else word for part in parts]
    return found


ROOMS = {room: row for row in TABLE for room in expand(row.rooms)}


def module_files(root: Path) -> dict[str, Path]:
    """Map the name of each module below the packages and tools to its file."""
    files = {}
    for package, folder in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = [package, *path.relative_to(root / folder).with_suffix("").parts]
            files[".".join(part for part in parts if part != "__init__")] = path
    return files


def room_of(module: str) -> str | None:
    """Name the room of a module; None for the ``__init__`` of a package, which has none."""
    names = [room for room in ROOMS if module == room or module.startswith(room + ".")]
    return max(names, key=len, default=None)


def imports(path: Path, module: str) -> Iterator[tuple[str, int]]:
    """Yield (absolute module name, line) of each import that runs, also inside functions."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
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
            source = ".".join([*above, *(node.module or "").split(".")]).strip(".")
            yield source, node.lineno
            yield from ((f"{source}.{alias.name}", node.lineno) for alias in node.names)


def arrows(root: Path) -> list[tuple[str, str, int]]:
    """List (module, imported module of the project, line); a package stands for its file."""
    files = module_files(root)
    return sorted(
        {
            (module, name, line)
            for module, path in files.items()
            for name, line in imports(path, module)
            if name in files and name != module
        }
    )


def violations(root: Path) -> list[str]:
    """Name every import that the table forbids, and every file outside its rooms."""
    files, found = module_files(root), []
    for module, path in files.items():
        room = room_of(module)
        if room is None:
            if path.name != "__init__.py":
                found.append(f"{module} belongs to no room")
            continue
        for name, line in imports(path, module):
            if name.partition(".")[0] in ROOMS[room].never:
                found.append(f"{module}:{line} imports {name}")
    for module, name, line in arrows(root):
        room, other = room_of(module), room_of(name)
        if ".studies" in name and ".studies" not in module:
            found.append(f"{module}:{line} imports a study")
        if room is None or other is None or room == other:
            continue
        packages = {module.partition(".")[0], name.partition(".")[0]}
        if ROOMS[other].floor >= ROOMS[room].floor or (
            len(packages) == 2 and packages <= SYSTEM_PACKAGES
        ):
            found.append(f"{module}:{line} imports {name}")
    return sorted(set(found))


def circles(arrows_of: list[tuple[str, str, int]]) -> list[set[str]]:
    """Find groups of modules that import one another, directly or through others."""
    targets: dict[str, set[str]] = {}
    for module, name, _ in arrows_of:
        targets.setdefault(module, set()).add(name)

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        pending = [start]
        while pending:
            for name in targets.get(pending.pop(), set()) - seen:
                seen.add(name)
                pending.append(name)
        return seen

    reach = {module: reached(module) for module in targets}
    groups = []
    for module in sorted(targets):
        group = {other for other in reach[module] if module in reach.get(other, set())}
        if group and group not in groups:
            groups.append(group)
    return groups


# ---- the rules -----------------------------------------------------------------------------------


def test_the_table_is_short_and_each_room_is_there() -> None:
    assert len(TABLE) <= 15
    modules = module_files(ROOT)
    missing = [room for room in ROOMS if room not in modules]
    assert missing == []
    common = {row.floor for room, row in ROOMS.items() if room.startswith("panoptic_common")}
    assert len(common) <= 6


def test_imports_follow_the_table() -> None:
    assert violations(ROOT) == []


def test_no_file_imports_itself_through_others() -> None:
    assert circles(arrows(ROOT)) == []


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("panoptic_common/coco/quality.py", "import torch", "imports torch"),
        ("panoptic_common/data/mapper.py", "import panoptic_common.config", "imports panoptic"),
        ("panoptic_common/engine/hooks.py", "from cops import targets", "imports cops.targets"),
        ("cops/targets.py", "import unified_panoptic.matching", "imports unified_panoptic"),
        ("cops/solver/parallel.py", "from ..layers import lifting", "imports cops.layers.lifting"),
        ("cops/losses/top_k.py", "def f():\n    import detectron2", "imports detectron2"),
        ("tools/doctor.py", "import panoptic_tools.studies.ablation", "imports a study"),
        ("panoptic_common/stray.py", "import os", "belongs to no room"),
    ],
)
def test_a_violation_is_found(tmp_path: Path, file: str, line: str, expected: str) -> None:
    for folder in FOLDERS.values():
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pyc*"))
    assert violations(tmp_path) == []
    with (tmp_path / file).open("a", encoding="utf-8") as stream:
        stream.write(f"\n{line}\n")
    assert any(expected in text for text in violations(tmp_path))


def test_a_circle_is_found() -> None:
    pairs = [("a", "b", 1), ("b", "c", 1), ("c", "a", 1), ("c", "d", 1), ("x", "a", 1)]
    assert circles(pairs) == [{"a", "b", "c"}]


def test_imports_are_understood(tmp_path: Path) -> None:
    """The reader of imports itself: relative, nested, aliased, and those for types only."""
    path = tmp_path / "amwc.py"
    path.write_text(
        "import a.b as c\n"
        "from ..solver import problem\n"
        "from . import x\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "else:\n    import one\n"
        "def f():\n    from unified_panoptic.config import y\n"
    )
    found = {name for name, _ in imports(path, "cops.layers.amwc")}
    assert {"a.b", "cops.solver.problem", "cops.layers.x", "one"} <= found
    assert "unified_panoptic.config" in found and "torch" not in found


def test_the_common_package_names_no_system() -> None:
    """systems.py holds the one table of names; the rest asks it."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / "panoptic_common").rglob("*.py"))
        if path.name != "systems.py"
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if NAMES_OF_SYSTEMS.search(line)
    ]
    assert found == []


def test_compat_comes_before_detectron2() -> None:
    """A module that imports Detectron2 while it is loaded has imported `compat` before.

    Its folder's ``__init__`` does so, or the module itself in an earlier line.
    """

    def first_lines(path: Path, module: str) -> tuple[float, float]:
        lines = {"compat": float("inf"), "detectron2": float("inf")}
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in getattr(node, "names", []) if alias.name]
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{name}" for name in names)]
            elif not isinstance(node, ast.Import):
                continue
            for name in names:
                if name.startswith("panoptic_common.compat"):
                    lines["compat"] = min(lines["compat"], node.lineno)
                if name.partition(".")[0] == "detectron2":
                    lines["detectron2"] = min(lines["detectron2"], node.lineno)
        return lines["compat"], lines["detectron2"]

    files, wrong = module_files(ROOT), []
    for module, path in files.items():
        compat, detectron2 = first_lines(path, module)
        parents = [".".join(module.split(".")[:n]) for n in range(1, module.count(".") + 1)]
        above = any(
            first_lines(files[parent], parent)[0] < float("inf")
            for parent in parents
            if parent in files
        ) or module.startswith("panoptic_common.compat.")
        if detectron2 < compat and not above:
            wrong.append(f"{module}:{detectron2:.0f}")
    assert wrong == []


# ---- in a fresh interpreter ----------------------------------------------------------------------

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked by this test")
sys.meta_path.insert(0, Block())
"""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize(
    ("module", "blocked"),
    [
        ("panoptic_common", NUMPY_ONLY),
        ("panoptic_common.coco.quality", NUMPY_ONLY),
        ("panoptic_common.scenes.storage", NUMPY_ONLY),
        ("panoptic_common.drawing.sheets", NUMPY_ONLY),
        ("cops.solver", (*NUMPY_ONLY, "cv2", "panoptic_common")),
        ("cops.runtime.pipeline", (*NUMPY_ONLY, "cv2")),
        ("unified_panoptic.runtime.pipeline", (*NUMPY_ONLY, "cv2", "numba")),
        ("panoptic_tools.run_exported", (*NUMPY_ONLY, "numba")),
        ("unified_panoptic.losses.lovasz", NO_DETECTRON2),
        ("cops.losses.separate", NO_DETECTRON2),
    ],
)
def test_module_works_without(module: str, blocked: tuple[str, ...]) -> None:
    run = run_python(BLOCK.format(blocked=blocked) + f"import {module}")
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_is_cheap(package: str) -> None:
    run = run_python(
        f"import sys, {package}\n"
        "heavy = {'torch', 'detectron2', 'cv2', 'numba', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("package", "architecture"), [("unified_panoptic", "UnifiedPanoptic"), ("cops", "COPS")]
)
def test_system_registers_itself_as_in_every_detectron2_project(
    package: str, architecture: str
) -> None:
    run = run_python(
        f"from {package} import add_{package}_config\n"
        "from detectron2.config import get_cfg\n"
        "from detectron2.modeling import META_ARCH_REGISTRY\n"
        f"add_{package}_config(get_cfg())\n"
        f"assert {architecture!r} in META_ARCH_REGISTRY"
    )
    assert run.returncode == 0, run.stderr
