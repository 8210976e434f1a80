"""A registered data set and the outputs of imagined models, for the tests of the evaluators."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from pathlib import Path

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from panopticapi.evaluation import pq_compute

from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.config import add_panoptic_config
from panoptic_common.data.catalog import class_table, load_panoptic, register_panoptic

# ---------------------------------------------------------------------------------- data sets


def register(name: str, paths, evaluator_type: str = "panoptic") -> str:
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(name, None)
    register_panoptic(
        name,
        images=paths.images,
        panoptic_json=paths.panoptic_json,
        panoptic_png=paths.panoptic_png,
        evaluator_type=evaluator_type,
    )
    return name


def change_json(paths, change) -> None:
    path = Path(paths.panoptic_json)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# -------------------------------------------------------------------------------- predictions


def perfect_output(record, table) -> dict:
    """What an ideal model would give: the truth without its crowd segments."""
    ids = read_id_map(record["pan_seg_file_name"])
    segments = [s for s in record["segments_info"] if not s["iscrowd"]]
    shape = ids.shape
    scores = torch.zeros(len(table), *shape)
    for s in record["segments_info"]:
        scores[s["category_id"]][torch.from_numpy(ids == s["id"])] = 1
    for s in record["segments_info"]:
        if s["iscrowd"]:
            ids[ids == s["id"]] = 0
    things = [k for k, entry in enumerate(table) if entry["isthing"]]
    found = [s for s in segments if s["isthing"]]
    boxes = torch.tensor([s["bbox"] for s in found], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    instances = Instances(shape)
    instances.pred_boxes = Boxes(boxes)
    instances.scores = torch.linspace(0.9, 0.5, len(found))
    instances.pred_classes = torch.tensor([things.index(s["category_id"]) for s in found]).long()
    instances.pred_masks = torch.from_numpy(
        np.array([ids == s["id"] for s in found]).reshape(-1, *shape)
    )
    listed = [
        {"id": s["id"], "category_id": s["category_id"], "isthing": s["isthing"], "score": 0.5}
        for s in segments
    ]
    panoptic = (torch.from_numpy(ids), listed)
    return {"sem_seg": scores, "instances": instances, "panoptic_seg": panoptic}


def nothing_output(record, table) -> dict:
    shape = (record["height"], record["width"])
    instances = Instances(shape)
    instances.pred_boxes = Boxes(torch.zeros(0, 4))
    instances.scores = torch.zeros(0)
    instances.pred_classes = torch.zeros(0, dtype=torch.long)
    instances.pred_masks = torch.zeros(0, *shape, dtype=torch.bool)
    return {
        "sem_seg": torch.zeros(len(table), *shape),
        "instances": instances,
        "panoptic_seg": (torch.zeros(shape, dtype=torch.int32), []),
    }


def shifted_output(record, table) -> dict:
    """The perfect output moved by two pixels, one class wrong, in 64-bit and not contiguous."""
    output = perfect_output(record, table)
    ids, segments = output["panoptic_seg"]
    ids = torch.roll(ids, (1, 2), dims=(0, 1)).long().T.contiguous().T
    segments = copy.deepcopy(segments)
    segments[2]["category_id"] = 0
    output["panoptic_seg"] = (ids, segments)
    output["sem_seg"] = torch.roll(output["sem_seg"], 2, dims=2)
    return output


def run(evaluator, name, make_output, records=None):
    table = class_table(name)
    evaluator.reset()
    for record in load_panoptic(name) if records is None else records:
        image = {key: record[key] for key in ("image_id", "file_name", "height", "width")}
        evaluator.process([image], [make_output(record, table)])
    return evaluator.evaluate()


def official(paths, folder: Path, prefix: str = "predictions") -> dict:
    """panopticapi on the files that an evaluator wrote, with its own idea of where PNGs are."""
    with contextlib.redirect_stdout(io.StringIO()):
        return pq_compute(
            paths.panoptic_json, str(folder / f"{prefix}.json"), gt_folder=paths.panoptic_png
        )


def make_cfg(tmp_path, variants=(), visualize=0):
    cfg = get_cfg()
    add_panoptic_config(cfg)
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    cfg.TEST.PANOPTIC_VARIANTS = variants
    cfg.TEST.EVAL_VISUALIZE = visualize
    return cfg
