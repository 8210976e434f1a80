"""The official files of predictions."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from evaluation_outputs import (
    perfect_output,
    run,
)

from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.evaluation.panoptic import PanopticEvaluator
from panoptic_common.evaluation.prediction_files import PredictionFiles


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


@pytest.mark.parametrize("key", ["file_name", "pan_seg_file_name"])
@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["root/a/x.png", "root/b/y.png"], None),
        (["root/x.jpg", "root/x.png", "root/X.bmp"], ["x.png", "x_2.png", "X_3.png"]),
        (["a/p.png", "b/p.png"], ["p.png", "p_2.png"]),  # outside of the root
        (["root/p.png", "root/p_2.png", "b/p.png"], ["p.png", "p_2.png", "p_3.png"]),
    ],
)
def test_no_two_predictions_have_one_name(tmp_path, monkeypatch, key, files, names):
    """Truth and images of any folder and ending; with truth, all of them are PNGs."""
    if key == "pan_seg_file_name":
        files = [str(Path(file).with_suffix(".png")) for file in files]
    metadata = SimpleNamespace(
        image_root=str(tmp_path / "root"), panoptic_root=str(tmp_path / "root")
    )
    monkeypatch.setattr(MetadataCatalog, "get", lambda name: metadata)
    records = {
        number: {"image_id": number, "file_name": str(tmp_path / file), key: str(tmp_path / file)}
        for number, file in enumerate(files)
    }
    truth = SimpleNamespace(dataset_name="any", records=records, table=[])
    written = PredictionFiles(truth, tmp_path, "predictions")
    for record in records.values():
        written.add(record, np.zeros((2, 2), np.int32), [])
    found = [annotation["file_name"] for annotation in written._annotations]
    assert len({name.casefold() for name in found}) == len(files)
    assert found == names or (names is None and len(found) == 2)
    on_disk = (tmp_path / "predictions").rglob("*.png")
    assert sorted(found) == sorted(
        path.relative_to(tmp_path / "predictions").as_posix() for path in on_disk
    )
