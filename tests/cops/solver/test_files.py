"""Files of problems: what LPMP and RAMA write is read, what is broken is named with its line."""

from __future__ import annotations

import gzip
import os
import sys
import time

import numpy as np
import pytest

from cops.solver import energy, solve_amwc
from cops.solver.files import FileError, StoredProblem, read_problem, write_problem

# From LPMP's own tests; the values, too.
LPMP = """ASYMMETRIC MULTIWAY CUT
MULTICUT
0 1 1.0
0 2 -1.0
1 2 -1.0
NODE COSTS
0 1 2.0
0 1 2.0
0 1 2.0"""


def write(folder, text):
    path = folder / "problem.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def equal(a, b):
    for first, second in zip(a, b, strict=True):
        if first is None or second is None:
            assert first is second
        else:
            assert np.array_equal(first, second)


def test_the_instance_of_lpmp(tmp_path):
    problem = read_problem(write(tmp_path, LPMP)).amwc()
    assert problem.node_costs.shape == (3, 3) and len(problem.edges) == 3
    assert problem.partitionable.all()  # in LPMP each class may have several clusters
    cut = np.array([True, True, True])
    assert energy(*problem[:3], np.zeros(3, int), cut) == -1.0
    for method in ("greedy", "multilevel", "auto"):
        assert solve_amwc(*problem, method=method).energy == -2.0


def test_multicut_with_all_that_a_line_may_hold(tmp_path):
    text = (
        "\n# comment\n  MULTICUT \r\n0 1 1.5\r\n\t1  2\t-3\nc more\n\n2 0 .5e1\n0 3 +1e-2 \n3 4 inf"
    )
    problem = read_problem(write(tmp_path, text))
    assert problem.edges.tolist() == [[0, 1], [1, 2], [2, 0], [0, 3], [3, 4]]
    assert problem.edge_costs.tolist() == [1.5, -3.0, 5.0, 0.01, np.inf]
    assert problem.num_nodes == 5 and problem.node_costs is None
    equal(problem.amwc()[:1], [np.zeros((5, 1))])


NUMBERS = [
    "0", "-0.0", "1.", ".1", "0.1", "123456789012345", "1234567890123456", "0.30000000000000004",
    "9007199254740993", "1e22", "1e23", "1e-22", "1e-23", "4.9e-324", "1.7976931348623157e308",
    "2.2250738585072014e-308", "0.12345678901234566", "123456789.123456789", "1e300", "-1e-400",
    "0.000000000000000000000000000000000000000000000000000000000000000000000001", "1E5", "+7e+3",
    "179769313486231570000000000000000000000000000000000000000000000000000", "1.00000000000000011",
    "0.500000000000000166533453693773481063544750213623046875", "9.999999999999999e22",
]  # fmt: skip


def test_numbers_are_the_nearest_float64(tmp_path):
    """As Python reads them: exact cases, halfway cases, and 40,000 random ones in several forms."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=10_000) * 10.0 ** rng.integers(-12, 12, 10_000)
    bits = rng.integers(0, 2**63 - 2**52, 10_000).view(np.float64)
    words = [*NUMBERS, *map(repr, values.tolist()), *map(repr, bits.tolist())]
    words += [f"{value:.{n % 25}f}" for n, value in enumerate(values)]
    words += [f"{value:.17e}" for value in values]
    words = [word for word in words if word != "nan"]
    path = write(tmp_path, "MULTICUT\n" + "".join(f"0 1 {word}\n" for word in words))
    found = read_problem(path).edge_costs
    assert np.array_equal(found, np.array([float(word) for word in words]))


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.npz"])
@pytest.mark.parametrize("classes", [False, True])
def test_what_is_written_is_read(tmp_path, name, classes):
    rng = np.random.default_rng(1)
    edges = np.array([[0, 1], [4, 2], [1, 2]], np.int32)
    costs = rng.normal(size=3) * 10.0 ** np.arange(-20, 40, 20)
    problem = StoredProblem(edges, costs, 7)
    if classes:
        node_costs = rng.normal(size=(7, 2))
        node_costs[3, 1] = np.inf
        problem = StoredProblem(edges, costs, 7, node_costs, np.array([True, False]))
    write_problem(tmp_path / name, problem)
    equal(problem, read_problem(tmp_path / name))
    with pytest.raises(OSError, match="nothing"):
        read_problem(tmp_path / "nothing.txt")


WRONG = [
    ("", "is empty"),
    ("0 1 2.0\n", "line 1: the first line must be MULTICUT or ASYMMETRIC"),
    ("MULTICUTS\n0 1 2\n", "line 1: the first line must be"),
    (b"\x89PNG\r\n\x1a\n\0\0\0", "line 1: the first line must be"),
    ("MULTICUT\n0 1\n", "line 2: a cost is missing or no number"),
    ("MULTICUT\n0 1 1\n1 2 x\n", "line 3: a cost is missing or no number"),
    ("MULTICUT\n0 1 1e\n", "line 2: a cost is missing"),
    ("MULTICUT\n0 1 1_0\n", "line 2: a cost is missing"),
    ("MULTICUT\n0 1 0x10\n", "line 2: a cost is missing"),
    ("MULTICUT\n0 1 nan\n", "line 2: a cost is NaN"),
    ("MULTICUT\n0 1 2 3\n", "line 2: the line has more words"),
    ("MULTICUT\n0 -1 2\n", "line 2: an edge needs two node numbers"),
    ("MULTICUT\n0.5 1 2\n", "line 2: an edge needs two node numbers"),
    ("MULTICUT\n# c\n\n3 3 2\n", "line 4: the edge joins a node to itself"),
    ("MULTICUT\n0 99999999999999999999 2\n", "line 2: a node number is above 1073741822"),
    ("MULTICUT\n0 1000000000 2\n", "has 1 edges, but 1000000001 nodes"),
    ("MULTICUT\n0 1 2\nNODE COSTS\n1\n", "line 3: after the edges nothing may follow"),
    ("MULTICUT\n0 1 2\nLIFTED\n", "line 3: after the edges nothing"),
    ("ASYMMETRIC MULTIWAY CUT\n0 1 2\n", "line 2: below ASYMMETRIC MULTIWAY CUT"),
    (LPMP.partition("NODE")[0], "line 6: after the edges there must be a line NODE COSTS"),
    (LPMP.partition("COSTS")[0] + "COSTS", "line 7: below NODE COSTS there must be a row"),
    (LPMP + "\n0 1\n", "line 10: the row has fewer costs"),
    (LPMP + "\n0 1 2 3\n", "line 10: the line has more words"),
    (LPMP + "\nMULTICUT\n", "line 10: a cost is missing"),
    (LPMP.rpartition("\n")[0], "has 2 rows of node costs, but an edge has node 2"),
    (LPMP + "\n# PARTITIONABLE 1 0\n", "must have 3 flags 0 or 1"),
    (LPMP + "\n# PARTITIONABLE 1 0 yes\n", "must have 3 flags 0 or 1"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_a_broken_file_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(FileError, match=message) as caught:
        read_problem(write(tmp_path, text))
    assert str(tmp_path) in str(caught.value)


def test_any_part_of_a_file_is_read_or_refused(tmp_path):
    """Cut off anywhere, or with any byte replaced: an answer or a sentence, never a crash."""
    whole = LPMP.encode()
    rng = np.random.default_rng(0)
    for end in range(len(whole)):
        changed = bytearray(whole)
        changed[end] = int(rng.integers(256))
        for data in (whole[:end], bytes(changed)):
            try:
                read_problem(write(tmp_path, data)).amwc()
            except FileError as error:
                assert "\n" not in str(error)


def test_packed_files(tmp_path):
    path = tmp_path / "p.txt.gz"
    path.write_bytes(gzip.compress(LPMP.encode())[:-9])
    with pytest.raises(FileError, match="no complete gzip file"):
        read_problem(path)
    path.write_bytes(LPMP.encode())
    with pytest.raises(FileError, match="no complete gzip file"):
        read_problem(path)
    bomb = gzip.compress(b"MULTICUT\n" + b"\n" * (1 << 27))
    path.write_bytes(bomb)
    with pytest.raises(FileError, match="unpacks to more than"):
        read_problem(path)


def test_archives(tmp_path):
    path = tmp_path / "p.npz"
    np.savez(path, edges=[[0, 1]], edge_costs=[1.0])
    with pytest.raises(FileError, match="no array called node_costs, partitionable"):
        read_problem(path)
    np.savez(path, edges=np.array([{}], dtype=object), edge_costs=[1.0], num_nodes=2)
    with pytest.raises(FileError, match="edges cannot be read: .*allow_pickle"):
        read_problem(path)
    path.write_bytes(b"no archive")
    with pytest.raises(FileError, match="no complete .npz file"):
        read_problem(path)
    np.savez_compressed(path, edges=np.zeros((1 << 24, 2)), edge_costs=[1.0], num_nodes=2)
    with pytest.raises(FileError, match="unpacks to"):
        read_problem(path)


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="needs the compiler")
def test_reading_is_fast(tmp_path):
    """300,000 edges; ten million took 1.2 s of processor time (tools/solve.py says so, too)."""
    count = 300_000
    ends = np.stack([np.arange(count), np.arange(1, count + 1)], axis=1).astype(np.int32)
    costs = np.random.default_rng(0).normal(size=count)
    write_problem(tmp_path / "p.txt", StoredProblem(ends, costs, count + 1))
    read_problem(tmp_path / "p.txt")
    begin = time.process_time()
    found = read_problem(tmp_path / "p.txt")
    assert time.process_time() - begin < 1.0, sys.version
    assert np.array_equal(found.edge_costs, costs)
