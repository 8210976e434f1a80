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

    # PARTITIONABLE 0 1         a flag for each class, behind NODE COSTS
    # NODES 7                   how many nodes there are, at the end, if the last ones have no edge

A cost may be "inf" or "-inf" (see `cops.solver.multicut`); of these LPMP reads "inf" only and RAMA
none.

Shapes: V nodes, K classes, E edges.
"""

from __future__ import annotations

import gzip
import io
import re
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver import parsing
from cops.solver.problem import Problem

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
# Packed files may hold so many times their size: text packs to a third or tenth.
MOST_UNPACKING = 200
LEAST_LIMIT = 1 << 26
# Nodes per edge from which on a file is taken for a mistake: only nodes without edges add to it.
NODES_PER_EDGE, NODES_AT_LEAST = 16, 1_000_000
ROWS_AT_A_TIME = 100_000
WORD_LENGTH = 32


class StoredProblem(NamedTuple):
    """A problem in a file.

    Attributes:
        edges: (E, 2) int32.
        edge_costs: (E,) float64.
        num_nodes: V.
        node_costs: (V, K) float64; None for multicut.
        partitionable: (K,) bool; None for multicut.
    """

    edges: npt.NDArray[np.int32]
    edge_costs: npt.NDArray[Any]
    num_nodes: int
    node_costs: npt.NDArray[Any] | None = None
    partitionable: npt.NDArray[np.bool_] | None = None

    def amwc(self) -> Problem:
        """Return the arguments of `solve_amwc`; a multicut has one class, in P, for nothing."""
        if self.node_costs is None or self.partitionable is None:
            free = np.zeros((self.num_nodes, 1), np.float32)
            return Problem(free, self.edges, self.edge_costs, np.array([True]))
        return Problem(self.node_costs, self.edges, self.edge_costs, self.partitionable)


class FileError(ValueError):
    """A file that is no problem; the message names it, the line and what to do."""


def read_problem(path: str | Path) -> StoredProblem:
    """Read a problem from a file: .npz, or text, which may be gzipped (.gz).

    Memory is bounded by the size of the file: some four times that of text.

    Raises:
        FileError: the content is malformed.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if path.suffix == ".npz":
        return _read_archive(path)
    return _parse(path, _read_bytes(path))


def _read_bytes(path: Path) -> bytes:
    """Read a text as it is, or unpack it as long as it does not swell out of proportion."""
    if path.suffix != ".gz":
        return path.read_bytes()
    limit = max(MOST_UNPACKING * path.stat().st_size, LEAST_LIMIT)
    try:
        with gzip.open(path) as file:
            data = file.read(limit + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FileError(f"{path} is no complete gzip file: {error}") from error
    if len(data) > limit:
        raise FileError(
            f"{path} unpacks to more than {limit} bytes, {MOST_UNPACKING} times its size: if that "
            "is right, unpack it yourself"
        )
    return data


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
    _convert_marks(text, scan, costs)
    num_nodes = _count_nodes(path, data, edges)
    if not has_classes:
        if scan.place[0] < text.size:
            raise _error(path, scan, "after the edges nothing may follow")
        return StoredProblem(edges, costs, num_nodes)
    if _read_header(data, scan) != NODE_COSTS:
        raise _error(path, scan, f"after the edges there must be a line {NODE_COSTS}")
    node_costs = _read_node_costs(path, text, scan)
    if len(node_costs) < num_nodes:
        raise FileError(
            f"{path} has {len(node_costs)} rows of node costs, but an edge has node {num_nodes - 1}"
        )
    flags = _find_flags(path, data, node_costs.shape[1])
    return StoredProblem(edges, costs, len(node_costs), node_costs, flags)


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


def _count_nodes(path: Path, data: bytes, edges: npt.NDArray[np.int32]) -> int:
    """Count the nodes: one more than the largest number, or what a comment says."""
    num_nodes = int(edges.max()) + 1 if len(edges) else 1
    found = _find_comment(data, b"# NODES ")
    if found and re.fullmatch(rb"\d{1,10}", found[0]):
        num_nodes = max(num_nodes, int(found[0]))
    if num_nodes > NODES_PER_EDGE * len(edges) + NODES_AT_LEAST:
        raise FileError(
            f"{path} has {len(edges)} edges, but {num_nodes} nodes: number the nodes that have "
            "edges from 0 on without gaps"
        )
    return num_nodes


def _find_comment(data: bytes, begin: bytes) -> list[bytes]:
    """Return the words of the first comment that begins so."""
    place = data.find(b"\n" + begin)
    if place < 0:
        return []
    place += 1 + len(begin)
    end = data.find(b"\n", place)
    return data[place : len(data) if end < 0 else end].split()


def _find_flags(path: Path, data: bytes, num_classes: int) -> npt.NDArray[np.bool_]:
    """Find which classes are in P; all of them where the file does not say."""
    words = _find_comment(data, b"# PARTITIONABLE ")
    if not words:
        return np.ones(num_classes, dtype=bool)
    if len(words) != num_classes or not set(words) <= {b"0", b"1"}:
        raise FileError(
            f"{path}: the comment # PARTITIONABLE must have {num_classes} flags 0 or 1, one per "
            "class"
        )
    return np.array([word == b"1" for word in words])


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
    rest = parsing.make_scan(costs.size)
    rest.place[:], rest.line[:] = scan.place, scan.line
    fault, count = parsing.read_costs(text, rest, costs)
    if fault == parsing.GOOD and rest.place[0] < text.size:
        fault = parsing.NO_COST
    if fault:
        raise _error(path, rest, FAULTS[fault])
    costs = costs[:count].copy()
    _convert_marks(text, rest, costs.reshape(-1))
    return costs


def _convert_marks(
    text: npt.NDArray[np.uint8], scan: parsing.Scan, values: npt.NDArray[np.float64]
) -> None:
    """Fill in the numbers that the kernels have only marked."""
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


# ---- archives ------------------------------------------------------------------------------------


def _read_archive(path: Path) -> StoredProblem:
    """Read edges and edge_costs, and node_costs and partitionable or num_nodes."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        limit = max(MOST_UNPACKING * path.stat().st_size, LEAST_LIMIT)
        if unpacked > limit:
            raise FileError(f"{path} unpacks to {unpacked} bytes, more than {limit}: pack it less")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, EOFError, zlib.error, KeyError) as error:
        raise FileError(f"{path} is no complete .npz file: {error}") from error
    except ValueError as error:
        raise error if isinstance(error, FileError) else FileError(f"{path}: {error}") from error
    wanted = {"edges", "edge_costs"}
    if "num_nodes" not in arrays:
        wanted |= {"node_costs", "partitionable"}
    missing = wanted - set(arrays)
    if missing:
        raise FileError(f"{path} has no array called {', '.join(sorted(missing))}")
    if "node_costs" in wanted:
        nodes = arrays["node_costs"]
        return StoredProblem(
            arrays["edges"], arrays["edge_costs"], len(nodes), nodes, arrays["partitionable"]
        )
    return StoredProblem(arrays["edges"], arrays["edge_costs"], int(arrays["num_nodes"]))


# ---- writing -------------------------------------------------------------------------------------


def write_problem(path: str | Path, problem: StoredProblem) -> None:
    """Write a problem in the form that the name asks for: .npz, .gz, or text.

    Costs are written with as many digits as bring back the same float64.
    """
    path = Path(path)
    if path.suffix == ".npz":
        arrays = {name: value for name, value in problem._asdict().items() if value is not None}
        if problem.node_costs is not None:
            del arrays["num_nodes"]
        # In memory: where the disk is full, an archive complains once more when it is collected.
        archive = io.BytesIO()
        np.savez(archive, **arrays)
        # Not getbuffer(): Python 3.12.1 crashes when it collects a view that an error has kept.
        path.write_bytes(archive.getvalue())
        return
    if path.suffix == ".gz":
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
