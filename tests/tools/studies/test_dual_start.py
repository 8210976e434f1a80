"""tools/studies/dual_start.py: the rows of its table, on the smallest problems."""

from __future__ import annotations

import numpy as np
import pytest

from cops.solver.multilevel import auto
from panoptic_tools.studies import dual_start


def test_a_row_for_each_kind_and_nothing_stays_replaced(capsys):
    before = auto._contract_after_cycles
    words = "--heights 16 --noise 6 --points 60 --point-noise 0.5 --seeds 1 2"
    assert dual_start.main(words.split()) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        "grid 16x32, noise 6",
        "60 points, noise 0.5",
    ]
    # A start more never costs energy.
    for row in rows[2:]:
        assert float(row.split("|")[3].split()[0]) <= 0.0
    assert auto._contract_after_cycles is before


def test_triangles_join_what_lies_nearest_to_one_centre():
    edges, costs = dual_start.triangulation(200, 0.0, seed=3)
    assert (edges[:, 0] < edges[:, 1]).all() and len(np.unique(edges, axis=0)) == len(edges)
    assert set(costs.tolist()) == {1.0, -1.0}
    assert len(edges) < 3 * 200  # planar


def test_wrong_arguments_are_refused(capsys):
    with pytest.raises(SystemExit):
        dual_start.main(["--heights", "2"])
    assert "--heights must be at least 4" in capsys.readouterr().err
