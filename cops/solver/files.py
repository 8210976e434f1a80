"""Problems in files: the text forms of LPMP and RAMA, plain or gzipped, and .npz archives.

Two text forms are read and written, both with the sign convention of this solver. (A positive cost
is paid for cutting, so it keeps two nodes together):

    MULTICUT                    ASYMMETRIC MULTIWAY CUT
    0 1 2.5                     MULTICUT
    1 2 -1.0                    0 1 2.5
                                NODE COSTS
                                0.0 1.0
                                0.5 0.0

Lines `i j cost` are edges, nodes count from 0; below NODE COSTS there is a row of K costs for each
node. LPMP's programs read both, RAMA's read the first. Blank lines, and lines that begin with "#"
or "c", are no data to LPMP and to this reader; RAMA stops at them. In LPMP's second form all
classes may have several clusters. What else is known stands in comments that LPMP passes over:

    # PARTITIONABLE 0 1         a flag for each class
    # NODES 7                   how many nodes there are, if the last ones have no edge

on any line, in any letters, with or without a colon. Another comment that begins with one of these
words is refused. A cost may be "inf" or "-inf" (see `cops.solver.multicut`); of these LPMP reads
"inf" only and RAMA none.

Shapes: V nodes, K classes, E edges.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from cops.solver import parsing
from cops.solver.archives import kind_of, read_archive, read_bytes, write_archive
from cops.solver.comments import Comments
from cops.solver.problem import NODES_AT_LEAST, NODES_PER_EDGE
from cops.solver.stored import FileError, StoredProblem, check_stored

__all__ = ["FileError", "StoredProblem", "read_problem", "write_problem"]

FAULTS = {
    parsing.NO_NODE: "an edge needs two node numbers 0, 1, 2 ... and a cost",
    parsing.LARGE_NODE: f"a node number is above {parsing.LARGEST_NODE}",
    parsing.LOOP: "the edge joins a node to itself",
    parsing.NO_COST: "a cost is missing or no number",
    parsing.NAN: "a cost is NaN",
    parsing.TOO_LONG: "the line has more words than it should",
    parsing.TOO_SHORT: "the row has fewer costs than the first one",
}
MULTICUT, AMWC, NODE_COSTS = "MULTICUT", "ASYMMETRIC MULTIWAY CUT", "NODE COSTS"
ROWS_AT_A_TIME = 100_000
WORD_LENGTH = 32


def read_problem(path: str | Path) -> StoredProblem:
    """Read a problem from a file: .npz, or text, which may be gzipped (.gz).

    Memory is bounded by the size of the file: some four times that of text.

    Raises:
        FileError: the content is malformed.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if kind_of(path) == ".npz":
        return read_archive(path)
    return _parse(path, read_bytes(path))


# ---- text ----------------------------------------------------------------------------------------


def _parse(path: Path, data: bytes) -> StoredProblem:
    """Read a problem from the bytes of a text."""
    text = np.frombuffer(data, dtype=np.uint8)
    if text.size == 0:
        raise FileError(f"{path} is empty: its first line must be {MULTICUT} or {AMWC}")
    num_lines = int(parsing.count_lines(text))
    scan = parsing.make_scan(num_lines)
    header = _read_header(data, scan)
    if header == AMWC:
        header = _read_header(data, scan)
        if header != MULTICUT:
            raise _error(path, scan, f"below {AMWC} there must be a line {MULTICUT}")
    elif header == MULTICUT:
        num_lines = -num_lines
    else:
        raise _error(path, scan, f"the first line must be {MULTICUT} or {AMWC}")
    has_classes = num_lines > 0
    # A line of an edge has six bytes at least: "0 1 2", and its end.
    most = min(abs(num_lines), text.size // 6 + 1)
    edges = np.empty((most, 2), np.int32)
    costs = np.empty(most, np.float64)
    fault, count = parsing.read_edges(text, scan, edges, costs)
    if fault:
        raise _error(path, scan, FAULTS[fault])
    edges, costs = edges[:count].copy(), costs[:count].copy()
    _convert_marks(path, text, scan, costs, "inf for edges that must not be cut")
    named = int(edges.max()) + 1 if len(edges) else 1
    if not has_classes:
        if scan.place[0] < text.size:
            raise _error(path, scan, "after the edges nothing may follow")
        comments = Comments(path, data, scan)
        comments.refuse_flags()
        return StoredProblem(edges, costs, _count_nodes(path, comments, named, len(edges)))
    if _read_header(data, scan) != NODE_COSTS:
        raise _error(path, scan, f"after the edges there must be a line {NODE_COSTS}")
    node_costs = _read_node_costs(path, text, scan)
    comments = Comments(path, data, scan)
    rows, num_classes = node_costs.shape
    comments.count_nodes(rows, f"there are {rows} rows of node costs", exactly=True)
    if rows < named:
        raise FileError(f"{path} has {rows} rows of node costs, but an edge has node {named - 1}")
    return StoredProblem(edges, costs, rows, node_costs, comments.find_flags(num_classes))


def _error(path: Path, scan: parsing.Scan, message: str) -> FileError:
    return FileError(f"{path}, line {scan.line[0]}: {message}")


def _read_header(data: bytes, scan: parsing.Scan) -> str:
    """Read the next line that is not blank and no comment, if it is one of letters."""
    if parsing.find_row(np.frombuffer(data, dtype=np.uint8), scan):
        return ""
    begin = int(scan.place[0])
    end = data.find(b"\n", begin)
    end = len(data) if end < 0 else end
    if end - begin > 200:
        return ""
    header = data[begin:end].decode("ascii", errors="replace").strip()
    if header in (MULTICUT, AMWC, NODE_COSTS):
        scan.place[0] = end + 1
        scan.line[0] += 1
    return header


def _count_nodes(path: Path, comments: Comments, named: int, num_edges: int) -> int:
    """Count the nodes: one more than the largest number, or what a comment says."""
    if not comments.names_nodes and named > NODES_PER_EDGE * num_edges + NODES_AT_LEAST:
        raise FileError(
            f"{path} has {num_edges} edges, but {named} nodes: number the nodes that have edges "
            f"from 0 on without gaps, or say by a comment # NODES {named} that so many are meant"
        )
    return comments.count_nodes(named, f"an edge has node {named - 1}")


def _read_node_costs(
    path: Path, text: npt.NDArray[np.uint8], scan: parsing.Scan
) -> npt.NDArray[np.float64]:
    """Read the rest of a text as rows of as many costs as the first one has."""
    if not parsing.find_row(text, scan):
        raise _error(path, scan, f"below {NODE_COSTS} there must be a row of costs for each node")
    num_classes = int(parsing.count_numbers(text, scan))
    # A row has two bytes at least for each cost.
    most = (text.size - int(scan.place[0])) // (2 * num_classes) + 1
    costs = np.empty((most, num_classes), np.float64)
    rest = scan._replace(marks=np.empty((costs.size, 3), np.int64), num_marks=np.zeros(1, np.int64))
    fault, count = parsing.read_costs(text, rest, costs)
    if fault == parsing.GOOD and rest.place[0] < text.size:
        fault = parsing.NO_COST
    if fault:
        raise _error(path, rest, FAULTS[fault])
    costs = costs[:count].copy()
    _convert_marks(path, text, rest, costs.reshape(-1), "inf for a class that is not possible")
    return costs


def _convert_marks(
    path: Path,
    text: npt.NDArray[np.uint8],
    scan: parsing.Scan,
    values: npt.NDArray[np.float64],
    instead: str,
) -> None:
    """Fill in the numbers that the kernels have only marked.

    Raises:
        FileError: a number is too large. Infinity has a meaning, and who means it writes it.
    """
    marks = scan.marks[: scan.num_marks[0]]
    for begin in range(0, len(marks), ROWS_AT_A_TIME):
        some = marks[begin : begin + ROWS_AT_A_TIME]
        words = np.zeros((len(some), WORD_LENGTH), np.uint8)
        parsing.copy_words(text, some, words)
        long = some[:, 2] - some[:, 1] > WORD_LENGTH
        words[long, 0] = ord("0")
        values[some[:, 0]] = words.view(f"S{WORD_LENGTH}")[:, 0].astype(np.float64)
        for index, first, behind in some[long]:
            values[index] = float(text[first:behind].tobytes())
        large = np.flatnonzero(np.isinf(values[some[:, 0]]))
        if len(large):
            before = text[: some[large[0], 1]]
            line = int(np.count_nonzero(before == ord("\n"))) + 1
            raise FileError(
                f"{path}, line {line}: a cost is too large for float64: write {instead}"
            )


# ---- writing -------------------------------------------------------------------------------------


def write_problem(path: str | Path, problem: StoredProblem) -> None:
    """Write a problem in the form that the name asks for: .npz, .gz, or text.

    Costs are written with as many digits as bring back the same float64.

    Raises:
        ValueError, TypeError: the problem is malformed, so that no one could read it again.
        OSError: the file cannot be written.
    """
    path = Path(path)
    problem = check_stored(problem)
    if kind_of(path) == ".npz":
        write_archive(path, problem)
        return
    if kind_of(path) == ".gz":
        with gzip.open(path, "wt", encoding="ascii") as file:
            _write_text(file, problem)
    else:
        with path.open("w", encoding="ascii") as file:
            _write_text(file, problem)


def _write_text(file: IO[Any], problem: StoredProblem) -> None:
    """Write either of the two forms."""
    if problem.node_costs is not None:
        file.write(f"{AMWC}\n")
    file.write(f"{MULTICUT}\n")
    for begin in range(0, len(problem.edges), ROWS_AT_A_TIME):
        ends = problem.edges[begin : begin + ROWS_AT_A_TIME].tolist()
        costs = problem.edge_costs[begin : begin + ROWS_AT_A_TIME].tolist()
        file.write("".join([f"{i} {j} {c!r}\n" for (i, j), c in zip(ends, costs, strict=True)]))
    if problem.node_costs is not None and problem.partitionable is not None:
        flags = " ".join("1" if flag else "0" for flag in problem.partitionable)
        file.write(f"{NODE_COSTS}\n# PARTITIONABLE {flags}\n")
        for begin in range(0, problem.num_nodes, ROWS_AT_A_TIME):
            rows = problem.node_costs[begin : begin + ROWS_AT_A_TIME].tolist()
            file.write("".join([" ".join(map(repr, row)) + "\n" for row in rows]))
    elif not len(problem.edges) or problem.edges.max() + 1 < problem.num_nodes:
        file.write(f"# NODES {problem.num_nodes}\n")
