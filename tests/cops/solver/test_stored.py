"""Problems on their way into files and out of them: comments, packings, fields that contradict."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile

import numpy as np
import pytest

from cops.solver import solve_amwc, solve_mwc
from cops.solver.files import FileError, StoredProblem, read_problem, write_problem

MULTICUT = "MULTICUT\n0 1 2.5\n1 2 -1.0\n"
AMWC = "ASYMMETRIC MULTIWAY CUT\nMULTICUT\n0 1 -2\n1 2 -1\nNODE COSTS\n0 1\n0.1 1\n0 1\n"
EDGES, COSTS = np.array([[0, 1], [1, 2]]), np.array([2.0, -1.5])
NODES, FLAGS = np.array([[0.0, 3.0], [0.0, 2.0], [1.0, 0.5]]), np.array([True, False])


def read(folder, content, name="problem.txt"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_problem(path)


def refusal(folder, content, name="problem.txt"):
    """The sentence, which is one, and names the file."""
    with pytest.raises(FileError) as caught:
        read(folder, content, name)
    said = str(caught.value)
    assert said.startswith(str(folder / name)) and "\n" not in said
    return said


# ---- comments ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0, 1, 2, 4, 5, 8])  # lines before it, from none to all
@pytest.mark.parametrize(
    "comment",
    [
        "# PARTITIONABLE 1 0",
        "#PARTITIONABLE 1 0",
        "# PARTITIONABLE\t1\t0",
        "  # Partitionable 1 0 ",
        "#   partitionable: 1 0",
        "c PARTITIONABLE 1 0",
        "## PARTITIONABLE : 1 0",
        "\t#\tpartitionable:1 0\r",
    ],
)
def test_flags_are_read_in_any_spelling_on_any_line(tmp_path, comment, where):
    lines = AMWC.splitlines()
    text = "\n".join([*lines[:where], comment, *lines[where:]])
    assert read(tmp_path, text).partitionable.tolist() == [True, False]


@pytest.mark.parametrize("where", [0, 1, 3])
@pytest.mark.parametrize("comment", ["# NODES 7", "#NODES 007", "c nodes: 7", " #\tNodes\t7 "])
def test_nodes_are_read_in_any_spelling_on_any_line(tmp_path, comment, where):
    lines = MULTICUT.splitlines()
    assert read(tmp_path, "\n".join([*lines[:where], comment, *lines[where:]])).num_nodes == 7


@pytest.mark.parametrize(
    ("text", "comment", "message"),
    [
        (MULTICUT, "# NODES", "must have one number"),
        (MULTICUT, "# NODES seven", "must have one number"),
        (MULTICUT, "#NODES -7", "must have one number"),
        (MULTICUT, "# nodes 1e1", "must have one number"),
        (MULTICUT, "# NODES=7", "must have one number"),
        (MULTICUT, "# NODES7", "must have one number"),
        (MULTICUT, "# NODES: 7 8", "must have one number"),
        (MULTICUT, "# NODES 99999999999", "1 to 1073741823 nodes"),
        (MULTICUT, "# NODES " + "9" * 5000, "1 to 1073741823 nodes"),
        (MULTICUT, "# NODES 1073741824", "1 to 1073741823 nodes"),
        (MULTICUT, "# NODES 2", "says 2 nodes, but an edge has node 2"),
        (MULTICUT, "# PARTITIONABLE 1", "a MULTICUT has none"),
        (AMWC, "# NODES 7", "says 7 nodes, but there are 3 rows of node costs"),
        (AMWC, "# NODES 2", "says 2 nodes, but there are 3 rows of node costs"),
        (AMWC, "# PARTITIONABLE", "must have 2 flags 0 or 1"),
        (AMWC, "#partitionable: 1", "must have 2 flags 0 or 1"),
        (AMWC, "c PARTITIONABLE True False", "must have 2 flags 0 or 1"),
        (AMWC, "# PARTITIONABLE=1 0", "must have 2 flags 0 or 1"),
    ],
)
def test_other_comments_with_these_words_are_refused_with_their_line(
    tmp_path, text, comment, message
):
    number = text.count("\n") + 1
    for line, content in ((1, f"{comment}\n{text}"), (number, text + comment)):
        said = refusal(tmp_path, content)
        assert f", line {line}: " in said and message in said


def test_two_comments_of_a_kind_are_refused(tmp_path):
    said = refusal(tmp_path, f"# NODES 4\n{MULTICUT}#nodes 5\n")
    assert "line 5: line 1 has a comment # NODES, too" in said
    flags = "# PARTITIONABLE 1 0\n"
    assert "line 2: line 1 has" in refusal(tmp_path, flags * 40 + AMWC)


def test_comments_with_other_words_are_comments(tmp_path):
    """As LPMP and RAMA write and read them."""
    others = "# NODES_OF 3\nc nodeset 1\n#PARTITIONABLES 0\n# of NODES 9\nc\n#\n# n\ncn"
    assert read(tmp_path, f"{others}\n{MULTICUT}# pa").num_nodes == 3


# ---- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "MULTICUT\n0 1 1\n1 2 1e400\n",
            "line 3: a cost is too large for float64: write inf for edges",
        ),
        ("MULTICUT\n0 1 -1e400\n", "line 2: a cost is too large"),
        (f"MULTICUT\n\n0 1 {'9' * 400}\n", "line 3: a cost is too large"),
        (
            AMWC.replace("0.1", "1e309"),
            "line 7: a cost is too large for float64: write inf for a class",
        ),
    ],
)
def test_a_number_that_is_too_large_is_no_constraint(tmp_path, text, message):
    assert message in refusal(tmp_path, text)


def test_nodes_far_above_the_edges_are_meant_if_someone_says_so(tmp_path):
    assert "say by a comment # NODES 3000001" in refusal(tmp_path, "MULTICUT\n0 3000000 1\n")
    assert read(tmp_path, "MULTICUT\n0 3000000 1\n# NODES 3000001").num_nodes == 3_000_001
    for name in ("a.txt", "a.npz"):
        problem = StoredProblem(np.zeros((0, 2), int), np.zeros(0), 2_000_000)
        write_problem(tmp_path / name, problem)
        assert read_problem(tmp_path / name).num_nodes == 2_000_000


# ---- other files ---------------------------------------------------------------------------------


def test_a_byte_order_mark_is_no_letter(tmp_path):
    assert read(tmp_path, b"\xef\xbb\xbf" + MULTICUT.encode()).num_nodes == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (MULTICUT.encode("utf-16"), "UTF-16"),
        (MULTICUT.encode("utf-16-le"), "UTF-16"),
        (AMWC.encode("utf-16-be"), "UTF-16"),
        (MULTICUT.replace("\n", "\r").encode(), "end in CR alone"),
        (gzip.compress(MULTICUT.encode()), "packed with gzip: let its name end in .gz"),
        (bz2.compress(MULTICUT.encode()), "bzip2"),
        (lzma.compress(MULTICUT.encode()), "xz"),
        (b"\x93NUMPY\x01\x00", "an .npy file"),
        (b"PK\x03\x04", "let its name end in .npz"),
    ],
)
def test_what_is_no_plain_text_is_called_by_its_name(tmp_path, content, message):
    assert message in refusal(tmp_path, content)


def test_names_may_end_in_capitals(tmp_path):
    assert read(tmp_path, gzip.compress(MULTICUT.encode()), "p.txt.GZ").num_nodes == 3
    for name in ("p.NPZ", "q.Gz"):
        write_problem(tmp_path / name, StoredProblem(EDGES, COSTS, 3))
        assert read_problem(tmp_path / name).edge_costs.tolist() == COSTS.tolist()
    assert (tmp_path / "p.NPZ").read_bytes().startswith(b"PK")


# ---- archives ------------------------------------------------------------------------------------

GOOD = {"edges": EDGES, "edge_costs": COSTS}
WITH_CLASSES = GOOD | {"node_costs": NODES, "partitionable": FLAGS}


def test_an_archive_of_all_fields_has_classes(tmp_path):
    np.savez(tmp_path / "p.npz", **WITH_CLASSES, num_nodes=3)
    found = read_problem(tmp_path / "p.npz")
    assert np.array_equal(found.node_costs, NODES) and found.partitionable.tolist() == [True, False]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (WITH_CLASSES | {"num_nodes": 5}, "num_nodes is 5, but node_costs has 3 rows"),
        (GOOD | {"node_costs": NODES, "num_nodes": 3}, "no array called partitionable"),
        (GOOD | {"partitionable": FLAGS, "num_nodes": 3}, "no array called node_costs"),
        (GOOD | {"Node_Costs": NODES, "num_nodes": 3}, "an array called Node_Costs, which is none"),
        (GOOD | {"num_nodes": 3.7}, "num_nodes must be an integer of at least 1, not 3.7"),
        (GOOD | {"num_nodes": np.nan}, "num_nodes must be an integer"),
        (GOOD | {"num_nodes": "x"}, "num_nodes must be an integer"),
        (GOOD | {"num_nodes": True}, "num_nodes must be an integer"),
        (GOOD | {"num_nodes": [3, 4]}, "num_nodes must be an integer"),
        (GOOD | {"num_nodes": 3j}, "num_nodes must be an integer"),
        (GOOD | {"num_nodes": -3}, "num_nodes must be at least 1"),
        (GOOD | {"num_nodes": 2}, r"edges[1] = [1, 2] names a node"),
        (GOOD | {"num_nodes": 10**11}, "at most 1073741823 are possible"),
        (GOOD | {"num_nodes": 3, "edges": 3}, "edges must have shape (E, 2)"),
        (GOOD | {"num_nodes": 3, "edges": EDGES * 1.0}, "edges must hold integers"),
        (GOOD | {"num_nodes": 3, "edges": np.ones((2, 3), int)}, "edges must have shape (E, 2)"),
        (GOOD | {"num_nodes": 3, "edge_costs": 1.0}, "edge_costs must have shape (2,)"),
        (GOOD | {"num_nodes": 3, "edge_costs": COSTS[:1]}, "edge_costs must have shape (2,)"),
        (GOOD | {"num_nodes": 3, "edge_costs": [1.0, np.nan]}, "edge_costs[1] is NaN"),
        (GOOD | {"num_nodes": 3, "edge_costs": ["a", "b"]}, "edge_costs must hold real numbers"),
        (WITH_CLASSES | {"node_costs": 3.0}, "node_costs must have shape (V, K)"),
        (WITH_CLASSES | {"node_costs": NODES[:, 0]}, "node_costs must have shape (V, K)"),
        (WITH_CLASSES | {"node_costs": NODES * np.nan}, "node_costs[0, 0] is NaN"),
        (WITH_CLASSES | {"partitionable": [1, 0]}, "partitionable must be 2 bools"),
    ],
)  # fmt: skip
def test_what_an_archive_says_wrong_is_named_with_file_and_key(tmp_path, arrays, message):
    np.savez(tmp_path / "good.npz", **arrays)
    content = (tmp_path / "good.npz").read_bytes()
    assert message in refusal(tmp_path, content, "p.npz")


def test_broken_archives(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in (GOOD | {"num_nodes": np.array(3)}).items():
            member = io.BytesIO()
            np.save(member, array)
            archive.writestr(f"{name}.npy", member.getvalue())
    whole = buffer.getvalue()
    assert read(tmp_path, whole, "p.npz").num_nodes == 3
    local, central = whole.find(b"PK\x03\x04"), whole.find(b"PK\x01\x02")
    for shift, value in ((8, 99), (6, 1)):  # an unknown compression; encrypted
        changed = bytearray(whole)
        changed[local + shift] = changed[central + shift + 2] = value
        assert "is no complete .npz file" in refusal(tmp_path, bytes(changed), "p.npz")
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, 'shape': (%s, 2), }"
    for content in (b"junk", b"", (header % b"1000000000000").ljust(128) + b"\n"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("edges.npy", content)
        refusal(tmp_path, buffer.getvalue(), "p.npz")
    rng = np.random.default_rng(0)
    for place in rng.integers(len(whole), size=300):
        changed = bytearray(whole)
        changed[place] = rng.integers(256)
        try:
            read(tmp_path, bytes(changed), "p.npz")
        except FileError as error:
            assert str(error).startswith(str(tmp_path))


# ---- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.txt", "a.npz"])
def test_without_flags_no_class_is_in_p(tmp_path, name):
    problem = StoredProblem(EDGES, COSTS, 3, NODES)
    expected = solve_mwc(NODES, EDGES, COSTS).energy
    assert expected == -1.0 == solve_amwc(*problem.amwc()).energy
    write_problem(tmp_path / name, problem)
    found = read_problem(tmp_path / name)
    assert not found.partitionable.any() and solve_amwc(*found.amwc()).energy == expected


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.npz"])
@pytest.mark.parametrize(
    ("problem", "error", "message"),
    [
        ((EDGES * 1.0, COSTS, 3), TypeError, "edges must hold integers"),
        ((EDGES, COSTS * np.nan, 3), ValueError, r"edge_costs\[0\] is NaN"),
        ((EDGES, COSTS[:1], 3), ValueError, r"edge_costs must have shape \(2,\)"),
        ((EDGES, COSTS, 2), ValueError, r"edges\[1\] = \[1, 2\]"),
        ((EDGES, COSTS, 3.0), TypeError, "num_nodes must be an integer"),
        ((EDGES, COSTS, 2, NODES, FLAGS), ValueError, "node_costs has 3 rows"),
        ((EDGES, COSTS, 3, NODES[:, 0], FLAGS), ValueError, "node_costs must have shape"),
        ((EDGES, COSTS, 3, -np.inf * NODES[:, 1:], FLAGS[:1]), ValueError, "is -inf"),
        ((EDGES, COSTS, 3, None, FLAGS), ValueError, "partitionable goes with node_costs"),
        ((EDGES, np.ma.masked_less(COSTS, 0), 3), ValueError, "edge_costs has masked entries"),
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path, name, problem, error, message):
    with pytest.raises(error, match=message):
        write_problem(tmp_path / name, StoredProblem(*problem))
    assert not (tmp_path / name).exists()


def test_lists_are_written_too(tmp_path):
    write_problem(tmp_path / "a.txt", StoredProblem([[0, 1]], [1.0], 2))
    assert read_problem(tmp_path / "a.txt").edges.tolist() == [[0, 1]]
