"""tools/studies/edge_costs.py: edges by distance and kind, counted by hand and by the program."""

from __future__ import annotations

import re

import numpy as np
import pytest
from cops_factory import tiny_config, tiny_model
from two_things import TABLE, register_two_things

from cops.targets import make_cops_targets
from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_tools.studies import edge_costs
from panoptic_tools.studies.library.edge_kinds import EdgeSums

IS_THING = (False, True)


def truth():
    """A row of one stuff cell, two of one thing, one of another, void, and stuff."""
    id_map = np.array([[4, 9, 9, 8, 0, 4]])
    classes = {4: 0, 9: 1, 8: 1}
    infos = [{"id": i, "category_id": c, "iscrowd": 0} for i, c in classes.items()]
    return make_cops_targets(id_map, infos, IS_THING, (1, 2), stride=1)["cops_target"]


def test_kinds_are_counted():
    sums = EdgeSums((1, 2), IS_THING)
    costs = np.zeros((4, 2, 8), np.float32)  # with padding
    costs[0, 0, :3] = 1.0, 3.0, -2.0
    costs[2, 0, 1:4] = -1.0, 0.5, 7.0  # in the cells of the middles; the last touches void
    for _ in range(2):
        sums.add(truth(), costs)
    assert list(sums.rows()) == [
        (1, "inside a thing", 2, 3.0, 1.0),
        (1, "between two things", 2, -2.0, 0.0),
        (1, "thing and stuff", 2, 1.0, 1.0),
        (2, "between two things", 2, 0.5, 1.0),
        (2, "thing and stuff", 4, (-1.0 + 0.0) / 2, 0.0),
    ]


@pytest.mark.parametrize("shape", [(2, 1, 6), (4, 1, 5)])
def test_costs_of_another_grid_are_refused(shape):
    with pytest.raises(ValueError, match="do not cover 2 distances on 1 x 6 cells"):
        EdgeSums((1, 2), IS_THING).add(truth(), np.zeros(shape, np.float32))


def test_program(tmp_path, capsys, registered):
    sets = {"DATASETS.TRAIN": ("tiny_nuclei",), "DATASETS.TEST": ("tiny_held",)}
    model = tiny_model(sets)
    saver = PanopticCheckpointer(model, str(tmp_path), cfg=tiny_config(sets), class_table=TABLE)
    saver.save("model", iteration=4)
    words = [str(tmp_path / "model.pth"), *registered]
    assert edge_costs.main(words) == 0
    table = capsys.readouterr().out
    # The border takes half of the 200 rows of cells of either image.
    found = re.search(r"^\| 1 +\| between two things +\| (\d+) ", table, re.MULTILINE)
    assert found and int(found[1]) == pytest.approx(200, abs=4)
    assert edge_costs.main([*words, "--dataset", "tiny_held"]) == 2


@pytest.fixture
def registered(tmp_path):
    yield from register_two_things(tmp_path)
