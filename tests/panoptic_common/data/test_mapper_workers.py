"""The mapper in worker processes that start from nothing.

A worker imports this file to find `_Mapped`. So nothing here imports Detectron2 before our own
packages, which bring its work-arounds along.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from panoptic_common.coco.annotations import PanopticPaths
from panoptic_common.coco.records import read_records
from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.config import add_panoptic_config
from panoptic_common.data.mapper import PanopticDatasetMapper


def keep_map(id_map: np.ndarray, segments_info: list[dict[str, Any]]) -> dict[str, Any]:
    """A target function that workers find by its name."""
    return {"id_map": id_map}


@pytest.mark.slow  # a new process imports torch and Detectron2
def test_mapper_works_in_spawned_workers(paths: PanopticPaths) -> None:
    from detectron2.config import get_cfg
    from detectron2.data import transforms as T

    records = read_records(paths)[1]
    cfg = get_cfg()
    add_panoptic_config(cfg)
    cfg.INPUT.RELIGHT.ENABLED = cfg.INPUT.CROP.ENABLED = True
    mapper = PanopticDatasetMapper.from_config(cfg, True, keep_map)
    assert isinstance(pickle.loads(pickle.dumps(mapper)), PanopticDatasetMapper)
    mapper = PanopticDatasetMapper(True, [T.RandomFlip(1.0)], "RGB", keep_map)
    loader = torch.utils.data.DataLoader(
        _Mapped(records, mapper),
        batch_size=None,
        num_workers=1,
        multiprocessing_context="spawn",
    )
    for sample, record in zip(loader, records, strict=True):
        true_ids = read_id_map(record["pan_seg_file_name"])
        np.testing.assert_array_equal(sample["id_map"], true_ids[:, ::-1])


class _Mapped(torch.utils.data.Dataset):
    """Records through a mapper."""

    def __init__(self, records: list[dict[str, Any]], mapper: PanopticDatasetMapper) -> None:
        self.records, self.mapper = records, mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.mapper(self.records[index])
