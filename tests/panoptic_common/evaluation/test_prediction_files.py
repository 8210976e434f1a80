"""The official files of predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from evaluation_outputs import (
    perfect_output,
    run,
)

from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.evaluation.panoptic import PanopticEvaluator


def test_official_files_use_dataset_ids_and_leave_nothing_behind(
    tiny_dataset, coco_paths, tmp_path
):
    out = tmp_path / "out"
    run(PanopticEvaluator(tiny_dataset, out), tiny_dataset, perfect_output)
    assert sorted(p.name for p in out.iterdir()) == ["predictions", "predictions.json"]
    content = json.loads((out / "predictions.json").read_text())
    truth = json.loads(Path(coco_paths.panoptic_json).read_text())
    assert [a["image_id"] for a in content["annotations"]] == [100, 101, 102]
    ids = {c["id"] for c in truth["categories"]}
    for annotation in content["annotations"]:
        assert {s["category_id"] for s in annotation["segments_info"]} == ids
        present = set(np.unique(read_id_map(out / "predictions" / annotation["file_name"])))
        assert present - {0} == {s["id"] for s in annotation["segments_info"]}
    assert {c["id"] for c in content["categories"]} == ids
