"""The commands and files that the pages of results and benchmarks name are there as named."""

from __future__ import annotations

import importlib
import re
import shlex

import pytest
from project import ROOT

from panoptic_common.coco.annotations import build_class_table
from panoptic_common.data import catalog

PAGES = (
    "docs/results.md",
    "docs/benchmark.md",
    *sorted(
        page.relative_to(ROOT).as_posix()
        for folder in ("results", "benchmark")
        for page in (ROOT / "docs" / folder).glob("*.md")
    ),
)
# The name of the function that reads a program's command line.
READERS = ("parse_arguments", "parse_args")
# What commands write, which a fresh clone has not.
WRITTEN = ("datasets", "output")


def commands(text: str) -> list[list[str]]:
    """The words of each fenced command `python tools/...`, without variables before it."""
    found = []
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            while words and re.fullmatch(r"[A-Z0-9_]+=.*", words[0]):
                words.pop(0)
            if words[:1] == ["python"]:
                found.append(words[1:])
    return found


DOCUMENTED = [command for page in PAGES for command in commands((ROOT / page).read_text())]


def test_commands_are_found():
    block = "A=1 python tools/x.py --size 1 \\\n    B \"(2, 'c')\"\nmake demo\n"
    text = f"```bash\n{block}```\npython y.py\n"
    assert commands(text) == [["tools/x.py", "--size", "1", "B", "(2, 'c')"]]
    assert len(DOCUMENTED) > 10


@pytest.fixture(autouse=True)
def nuclei(monkeypatch):
    """The classes of the nuclei, which a fresh clone has no data of."""
    classes = [
        {"id": 1, "name": "nucleus", "isthing": 1},
        {"id": 2, "name": "rest", "isthing": 0},
    ]
    table = build_class_table(classes, "nuclei")
    catalog.register_builtin()  # forgets what it knew of them
    for name in ("nuclei_train", "nuclei_val"):
        monkeypatch.setitem(catalog._CLASS_TABLES, name, table)


@pytest.mark.parametrize("words", DOCUMENTED, ids=" ".join)
def test_a_documented_command_is_understood(words, monkeypatch, tmp_path):
    """In a folder that has what a checkout has, and what the commands before it have trained."""
    for path in ROOT.iterdir():
        if path.is_dir() and not path.name.startswith(".") and path.name not in WRITTEN:
            (tmp_path / path.name).symlink_to(path)
    for word in words:
        if word.startswith("output/") and word.endswith(".pth"):
            (tmp_path / word).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / word).touch()
        if word.startswith("datasets/nuclei/") or word == "output/others/predictions":
            place = tmp_path / word
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch() if place.suffix else place.mkdir(exist_ok=True)
        if word.startswith("COSTS/"):  # made by `benchmark_solver.py --dump`
            (tmp_path / word).mkdir(parents=True)
            (tmp_path / word / "1.npz").touch()
    monkeypatch.chdir(tmp_path)
    name = "panoptic_tools." + words[0].removeprefix("tools/").removesuffix(".py").replace("/", ".")
    program = importlib.import_module(name)
    reader = next(getattr(program, reader) for reader in READERS if hasattr(program, reader))
    reader(words[1:])


@pytest.mark.parametrize("page", PAGES)
def test_no_command_hides_outside_a_fence(page):
    """An indented block would escape the test above."""
    assert not re.findall(r"^ {4}python .*", (ROOT / page).read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page):
    text = (ROOT / page).read_text()
    names = set(re.findall(r"`((?:[\w.]+/)+[\w.]+\.(?:py|yaml|md))`", text))
    folder = (ROOT / page).parent
    names |= {str(folder / name) for name in re.findall(r"\]\(([\w./]*images/[^)]+)\)", text)}
    assert names and [name for name in sorted(names) if not (ROOT / name).is_file()] == []
