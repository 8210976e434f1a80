"""Comments of a text that mean something: how many nodes there are, and which classes are in P.

To LPMP they are comments like others. So whoever types one wrong would be told nothing, by LPMP or
here, and get the solution of another problem. Hence each comment that begins with one of the two
words, in any letters and with any blanks, is either read or refused.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cops.solver.parsing import MAX_COMMENTS, Scan
from cops.solver.problem import MOST_NODES
from cops.solver.stored import FileError

NODES, PARTITIONABLE = range(2)
NAMES = ("# NODES", "# PARTITIONABLE")


class Comments:
    """What the comments of a text say.

    Args:
        path: of the text, for errors.
        data: the text.
        scan: that has passed over all of it.

    Raises:
        FileError: there are two of a kind.
    """

    def __init__(self, path: Path, data: bytes, scan: Scan) -> None:
        self._path = path
        self._found: dict[int, tuple[int, bytes]] = {}
        noted = scan.comments[: min(int(scan.num_comments[0]), MAX_COMMENTS)]
        for kind, place, line in noted.tolist():
            if kind in self._found:
                first = self._found[kind][0]
                raise self._error(line, f"line {first} has a comment {NAMES[kind]}, too: leave one")
            end = data.find(b"\n", place)
            self._found[kind] = line, data[place : len(data) if end < 0 else end]

    def _error(self, line: int, message: str) -> FileError:
        return FileError(f"{self._path}, line {line}: {message}")

    def _words(self, text: bytes) -> list[bytes]:
        """Return what is behind the first word; nothing where that word goes on, as in NODES=7."""
        match = re.fullmatch(rb"(?:[ \t\r]*:|[ \t\r]|$)(.*)", text)
        return [] if match is None else match[1].split()

    def count_nodes(self, least: int, of_what: str, *, exactly: bool = False) -> int:
        """Return how many nodes there are.

        Args:
            least: as many as are there for sure.
            of_what: who says so.
            exactly: whether there are no more.

        Raises:
            FileError: the comment is malformed, or says something else.
        """
        if NODES not in self._found:
            return least
        line, text = self._found[NODES]
        words = self._words(text)
        if len(words) != 1 or not re.fullmatch(rb"[0-9]+", words[0]):
            raise self._error(line, "a comment # NODES must have one number, such as # NODES 7")
        digits = words[0].lstrip(b"0")
        if len(digits) > 10 or not digits or int(digits) > MOST_NODES:
            raise self._error(line, f"there may be 1 to {MOST_NODES} nodes")
        stated = int(digits)
        if stated < least or (exactly and stated != least):
            raise self._error(line, f"the comment says {stated} nodes, but {of_what}")
        return stated

    @property
    def names_nodes(self) -> bool:
        """Whether a comment says how many nodes there are."""
        return NODES in self._found

    def find_flags(self, num_classes: int) -> npt.NDArray[np.bool_]:
        """Find which classes are in P; all of them where the file does not say."""
        if PARTITIONABLE not in self._found:
            return np.ones(num_classes, dtype=bool)
        line, text = self._found[PARTITIONABLE]
        words = self._words(text)
        if len(words) != num_classes or not set(words) <= {b"0", b"1"}:
            message = (
                f"the comment {NAMES[PARTITIONABLE]} must have {num_classes} flags 0 or 1, one per "
                "class"
            )
            raise self._error(line, message)
        return np.array([word == b"1" for word in words])

    def refuse_flags(self) -> None:
        """Refuse flags of classes in a text without classes."""
        if PARTITIONABLE in self._found:
            line = self._found[PARTITIONABLE][0]
            name = NAMES[PARTITIONABLE]
            raise self._error(line, f"{name} is about classes, but a MULTICUT has none")
