"""Sentences that readers meet, in docstrings, comments and docs, have at most 25 words.

Figures, formulas and code count for nothing; legends of symbols, tables, code blocks and lists of
columns are no sentences. A name in backticks is one word.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import ROOT

LONGEST_SENTENCE = 25
FOLDERS = ("panoptic_common", "unified_panoptic", "cops", "tools", "tests")
DEFINED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

# What is not prose, replaced before sentences are counted.
NOT_PROSE = (
    (re.compile(r"```.*?```", re.S), "\n\n"),
    (re.compile(r"`+[^`]*`+"), "name"),
    (re.compile(r"\]\([^)]*\)"), "]"),
    (re.compile(r"^[ \t]*(\||>>>|#+ ).*$", re.M), "\n\n"),  # tables, doctests, headings
    (re.compile(r"^.*\S {3,}\S.*$", re.M), "\n\n"),  # columns
    (re.compile(r"^( +|[A-Z ]+=).*\b\w+\.py\b.*$", re.M), "\n\n"),  # commands
    (re.compile(r"^[ \t]*(Shape|Shapes|Symbols)\b[^.]*\.", re.M), "\n\n"),  # legends
    (re.compile(r"^[ \t]*([-*]|\d+\.)[ \t]", re.M), "\n\n"),  # items of a list
    (re.compile(r"^[ \t]*(\*{0,2}\w+(, \*{0,2}\w+)*):(?=\s)", re.M), "\n\n"),  # arguments
    (re.compile(r"\b(e\.g|i\.e|cf|vs|Eq|Fig|al)\."), r"\1"),
)


def long_sentences(text: str) -> list[str]:
    """Return the sentences of a text with more words than the house allows."""
    for pattern, replacement in NOT_PROSE:
        text = pattern.sub(replacement, text)
    sentences = (
        sentence
        for paragraph in re.split(r"\n\s*\n", text)
        for sentence in re.split(r"(?<=[.!?])[)\"'*]*\s+", paragraph.strip())
    )
    return [
        " ".join(sentence.split())
        for sentence in sentences
        if len([w for w in sentence.split() if re.search(r"[A-Za-z]{2}|^a$", w)]) > LONGEST_SENTENCE
    ]


def docstrings_and_comments(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring and of each block of comments."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DEFINED) and (docstring := ast.get_docstring(node)):
            yield getattr(node, "lineno", 1), docstring
    block: list[str] = []
    for number, line in enumerate([*source.splitlines(), ""], 1):
        comment = re.match(r"\s*# ?(.*)", line)
        if comment:
            block.append(comment.group(1))
        elif block:
            yield number - len(block), "\n".join(block)
            block = []


@pytest.mark.parametrize("folder", FOLDERS)
def test_sentences_in_code_are_short(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT).as_posix()}:{line}: {sentence}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, text in docstrings_and_comments(path)
        for sentence in long_sentences(text)
    ]
    assert found == []


def test_sentences_in_docs_are_short() -> None:
    found = [
        f"{path.relative_to(ROOT).as_posix()}: {sentence}"
        for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
        for sentence in long_sentences(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_a_long_sentence_is_found_and_what_is_no_sentence_is_not() -> None:
    words = "word " * LONGEST_SENTENCE
    assert long_sentences(f"Short. {words}word more. Short.") == [f"{words}word more."]
    assert long_sentences(f"{words.strip()}. {words.strip()}.") == []
    assert long_sentences(f"{words}`one name of many words` 12 + 3.") != []
    assert long_sentences(f"{words}12 + 3 = 15.") == []
    assert long_sentences(f"```\n{words * 2}\n```\n\n| {words * 2} |\n\nShapes: {words * 2}.") == []
