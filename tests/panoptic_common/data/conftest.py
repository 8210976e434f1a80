"""A data set of three images for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dataset_factory import make_coco_panoptic

from panoptic_common.coco.annotations import PanopticPaths
from panoptic_common.coco.records import read_records


@pytest.fixture
def paths(tmp_path: Path) -> PanopticPaths:
    return make_coco_panoptic(tmp_path, suffix=".png")


@pytest.fixture
def record(paths: PanopticPaths) -> dict[str, Any]:
    return read_records(paths)[1][0]
