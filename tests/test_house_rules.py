"""House rules that a program can check: lengths, suppressions, prints, names, paths."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from project import ROOT

PACKAGES = ("panoptic_common", "unified_panoptic", "cops")
LONGEST_FILE, LONGEST_TOOL, LONGEST_FUNCTION = 400, 250, 80
MOST_SUPPRESSIONS = 40


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


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


def test_no_program_edits_the_path() -> None:
    """The project is installed; what runs without is a wrong path that nobody notices."""
    edits = re.compile(r"sys\.path\b")
    found = [
        f"{name_of(path)}:{number}"
        for path in python_files(*PACKAGES, "tools")
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if edits.search(line)
    ]
    assert found == []


def test_commands_in_docstrings_keep_their_lines() -> None:
    """In a docstring that is not raw, a backslash at the end of a line joins it with the next."""
    joined = []
    for path in python_files(*PACKAGES, "tools", "tests"):
        text = path.read_text(encoding="utf-8")
        first = ast.parse(text).body[:1]  # the docstring of the module
        written = ast.get_source_segment(text, first[0]) if first else ""
        if written and written.startswith('"""') and "\\\n" in written:
            joined.append(name_of(path))
    assert joined == []


def test_no_module_is_called_utils() -> None:
    names = ("utils", "util", "helpers", "misc")
    files = python_files(*PACKAGES, "tools", "tests")
    assert [name_of(path) for path in files if {path.stem, path.parent.name} & set(names)] == []


def test_files_and_functions_are_short_enough_to_read() -> None:
    long = []
    for path in python_files(*PACKAGES, "tools", "tests"):
        text = path.read_text(encoding="utf-8")
        tool = path.parent == ROOT / "tools"
        if len(text.splitlines()) > (LONGEST_TOOL if tool else LONGEST_FILE):
            long.append(f"{name_of(path)} has {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    long.append(f"{name_of(path)}: {node.name} has {length} lines")
    assert long == []


def test_configs_have_lines_of_100_columns() -> None:
    """As ruff sees to it in Python."""
    long = [
        f"{name_of(path)}:{number}"
        for path in sorted((ROOT / "configs").rglob("*.yaml"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 100
    ]
    assert long == []


def test_dataclasses_of_arrays_compare_by_identity() -> None:
    """The == that dataclasses write themselves raises for arrays, and so does the hash."""
    arrays = re.compile(r"\b\w*(?:NDArray|ndarray|Tensor|Array|Instances)\b")
    found = []
    for path in python_files(*PACKAGES, "tools"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef):
                continue
            maker = " ".join(ast.unparse(d) for d in node.decorator_list)
            types = [ast.unparse(x.annotation) for x in node.body if isinstance(x, ast.AnnAssign)]
            holds = any(arrays.search(t) and not t.startswith("Callable") for t in types)
            if maker.startswith("dataclass") and holds and "eq=False" not in maker:
                found.append(f"{name_of(path)}:{node.lineno} {node.name}")
    assert found == []


def test_suppressions_are_rare() -> None:
    comment = re.compile(r"#\s*(noqa|type:\s*ignore|fmt:\s*(skip|off))")
    found = [
        f"{name_of(path)}:{number}"
        for path in python_files(*PACKAGES, "tools", "tests")
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if comment.search(line)
    ]
    assert len(found) < MOST_SUPPRESSIONS, found


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        name_of(path)
        for path in python_files(*PACKAGES, "tools", "tests")
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


def text_files() -> Iterator[Path]:
    """Yield what belongs to the project, without outputs, environments and caches."""
    suffixes = {".py", ".md", ".yaml", ".yml", ".toml", ".cfg", ".cff", ".txt", ".sh", ".json"}
    names = {"Makefile", ".gitignore", "run", "LICENSE"}
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
