"""PQ against panopticapi itself, on random, synthetic and real maps."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from panoptic_maps import perturbed, random_image, statistics_of
from panopticapi.evaluation import PQStat, pq_compute_single_core

from panoptic_common.coco.quality import PanopticStatistics, match_segments
from panoptic_common.coco.segment_ids import read_id_map, update_segments, write_id_map
from panoptic_common.scenes import storage as scenes


def official_statistics(folder: Path, images, num_classes: int) -> PQStat:
    """panopticapi's, through files as in real use."""
    folder.mkdir(exist_ok=True)
    pairs = []
    for number, (truth, truth_segments, prediction, prediction_segments) in enumerate(images):
        annotations = []
        for what, ids, segments in (
            ("truth", truth, truth_segments),
            ("prediction", prediction, prediction_segments),
        ):
            name = f"{what}_{number}.png"
            write_id_map(folder / name, ids)
            annotations.append(
                {
                    "image_id": number,
                    "file_name": name,
                    "segments_info": [dict(segment) for segment in segments],
                }
            )
        pairs.append(tuple(annotations))
    categories = {k: {"id": k, "isthing": k % 2} for k in range(num_classes)}
    return pq_compute_single_core(0, pairs, str(folder), str(folder), categories)


def assert_equal_to_official(folder: Path, images, num_classes: int) -> PanopticStatistics:
    ours = statistics_of(images, num_classes)
    official = official_statistics(folder, images, num_classes)
    for k in range(num_classes):
        counts = (official[k].tp, official[k].fp, official[k].fn)
        assert (ours.tp[k], ours.fp[k], ours.fn[k]) == counts, f"class {k}"
        assert ours.iou[k] == pytest.approx(official[k].iou, abs=1e-12)
    categories = {k: {"isthing": k % 2} for k in range(num_classes)}
    quality = ours.quality([k % 2 == 1 for k in range(num_classes)])
    for group, isthing in ((quality.all, None), (quality.things, True), (quality.stuff, False)):
        if group.num_classes == 0:
            with pytest.raises(ZeroDivisionError):
                official.pq_average(categories, isthing)
            assert math.isnan(group.pq) and math.isnan(group.sq) and math.isnan(group.rq)
            continue
        expected, _ = official.pq_average(categories, isthing)
        assert group.num_classes == expected["n"]
        for name in ("pq", "sq", "rq"):
            assert getattr(group, name) == pytest.approx(expected[name], abs=1e-12)
    return ours


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    segments=st.integers(1, 20),
    num_classes=st.integers(1, 5),
    agreement=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
)
def test_equals_panopticapi_on_random_maps(
    tmp_path_factory, seed, size, segments, num_classes, agreement
):
    rng = np.random.default_rng(seed)
    image = random_image(rng, *size, segments, num_classes, agreement)
    assert_equal_to_official(tmp_path_factory.mktemp("maps"), [image], num_classes)


def test_equals_panopticapi_over_many_images(tmp_path):
    rng = np.random.default_rng(0)
    images = [random_image(rng, 64, 80, 20, 6) for _ in range(30)]
    sums = assert_equal_to_official(tmp_path, images, 6)
    assert sums.tp.min() > 5 and sums.fp.min() > 5 and sums.fn.min() > 5  # all rules exercised
    ignored = [match_segments(*image, 6).ignored for image in images]
    assert sum(map(len, ignored)) > 5
    crowds = [[s["category_id"] for s in p[1] if s["iscrowd"]] for p in images]
    assert any(len(set(c)) < len(c) for c in crowds)  # several crowds of one class


def test_equals_panopticapi_on_noise(tmp_path):
    """Every pixel a run of its own: the other branch of the counting."""
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 5, (30, 40)).astype(np.int32)
    prediction = np.where(rng.random((30, 40)) < 0.8, truth, rng.integers(0, 5, (30, 40)))
    segments = update_segments(
        truth, [{"id": i, "category_id": i % 3, "iscrowd": int(i == 4)} for i in range(1, 5)]
    )
    predicted = [{"id": i, "category_id": i % 3} for i in range(1, 5)]
    sums = assert_equal_to_official(tmp_path, [(truth, segments, prediction, predicted)], 3)
    assert sums.tp.sum() > 0


def test_equals_panopticapi_on_scenes(tmp_path):
    rng = np.random.default_rng(2)
    contiguous = {entry["id"]: k for k, entry in enumerate(scenes.CLASSES)}
    num_classes = len(contiguous)
    images = []
    for seed in range(4):
        scene = scenes.make_scene(seed, scenes.SceneConfig())
        segments = [{**s, "category_id": contiguous[s["category_id"]]} for s in scene.segments_info]
        prediction = perturbed(rng, scene.id_map, segments, num_classes)
        images.append((scene.id_map, segments, *prediction))
    sums = assert_equal_to_official(tmp_path, images, num_classes)
    assert sums.tp.sum() > 10 and sums.fn.sum() > 3


def test_equals_panopticapi_on_coco(tmp_path, shared_coco):
    rng = np.random.default_rng(3)
    root = Path(shared_coco) / "coco"
    content = json.loads((root / "annotations" / "panoptic_val2017.json").read_text())
    contiguous = {c["id"]: k for k, c in enumerate(content["categories"])}
    images = []
    for annotation in content["annotations"]:
        truth = read_id_map(root / "panoptic_val2017" / annotation["file_name"])
        segments = [
            {**s, "category_id": contiguous[s["category_id"]]} for s in annotation["segments_info"]
        ]
        for _ in range(3):
            prediction = perturbed(rng, truth, segments, len(contiguous))
            images.append((truth, segments, *prediction))
    assert any(s["iscrowd"] for image in images for s in image[1])
    sums = assert_equal_to_official(tmp_path, images, len(contiguous))
    assert sums.tp.sum() > 20
