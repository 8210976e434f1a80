"""The confusion of things and stuff (Table G): by hand, and the files that are written of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from evaluation_outputs import perfect_output, run
from PIL import Image

from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.data.catalog import load_panoptic
from panoptic_common.evaluation.confusion import confusion_of_kinds
from panoptic_common.evaluation.semantic import SemanticEvaluator


def test_kinds_by_hand():
    """Classes: thing, stuff, thing. The last column is a thing of unknown class.

    True things: row 0 has 8 + 1 + 0 + 1 and row 2 has 2 + 4 + 4 + 0 pixels, of which 1 + 4 are
    taken for stuff: 5 of 20. True stuff: 3 of 30 pixels are taken for things.
    """
    confusion = np.array([[8, 1, 0, 1], [1, 27, 2, 0], [2, 4, 4, 0]])
    kinds = confusion_of_kinds(confusion, np.array([True, False, True]))
    assert kinds == pytest.approx(np.array([[0.75, 0.25], [0.1, 0.9]]))
    only_stuff = confusion_of_kinds(np.array([[27, 2]]), np.array([False]))
    assert np.isnan(only_stuff[0]).all()
    assert only_stuff[1] == pytest.approx(np.array([2 / 29, 27 / 29]))


def test_a_row_of_persons_taken_for_road(tiny_dataset, tmp_path):
    """Everything is right but the persons and their crowd, which are road."""
    persons = things = 0
    for record in load_panoptic(tiny_dataset):
        ids = read_id_map(record["pan_seg_file_name"])
        for s in record["segments_info"]:
            pixels = int((ids == s["id"]).sum())
            things += pixels * bool(s["isthing"])
            persons += pixels * (s["category_id"] == 0)

    def output(record, table):
        scores = perfect_output(record, table)["sem_seg"]
        scores[1] += scores[0]
        scores[0] = 0
        return {"sem_seg": scores}

    results = run(SemanticEvaluator(tiny_dataset, tmp_path), tiny_dataset, output)["sem_seg"]
    assert results["things_as_things"] == pytest.approx(100 * (things - persons) / things)
    assert 0 < persons < things and results["stuff_as_stuff"] == 100
    written = json.loads((tmp_path / "confusion.json").read_text())
    assert written["classes"] == ["person", "road", "car", "bus", "sky"]
    assert written["pixels"][0] == [0, persons, 0, 0, 0, 0]
    assert written["percent_of_kinds"][0][1] == pytest.approx(100 * persons / things)
    with Image.open(tmp_path / "confusion.png") as image:
        assert image.mode == "RGB" and image.width == image.height > 5 * 36


def test_nothing_is_written_without_a_folder(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def output(record, table):
        return {"sem_seg": torch.zeros(5, 48, 64)}

    run(SemanticEvaluator(tiny_dataset), tiny_dataset, output)
    assert not list(tmp_path.rglob("confusion*"))
