"""PQ against panopticapi itself on random, real and synthetic maps; hand-worked and odd cases."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from panopticapi.evaluation import PQStat, pq_compute_single_core

from panoptic_common import scenes
from panoptic_common.label_overlaps import count_overlaps
from panoptic_common.quality import PanopticStatistics, match_segments
from panoptic_common.segment_ids import read_id_map, update_segments, write_id_map

# ------------------------------------------------------------------------------------ twins


def statistics_of(pictures, num_classes: int, **keywords) -> PanopticStatistics:
    """Ours, over pictures (truth, truth segments, prediction, prediction segments)."""
    total = PanopticStatistics.zeros(num_classes)
    for picture in pictures:
        total += match_segments(*picture, num_classes, **keywords).statistics(num_classes)
    return total


def official_statistics(folder: Path, pictures, num_classes: int) -> PQStat:
    """panopticapi's, through files as in real use."""
    folder.mkdir(exist_ok=True)
    pairs = []
    for number, (truth, truth_segments, prediction, prediction_segments) in enumerate(pictures):
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


def assert_equal_to_official(folder: Path, pictures, num_classes: int) -> PanopticStatistics:
    ours = statistics_of(pictures, num_classes)
    official = official_statistics(folder, pictures, num_classes)
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


def boundary_statistics_by_masks(picture, num_classes: int, ratio: float) -> PanopticStatistics:
    """Boundary PQ of one picture with one erosion per mask, and no shared tables."""
    truth, truth_segments, prediction, prediction_segments = picture
    radius = max(1, int(round(ratio * math.hypot(*truth.shape))))

    def band(mask):
        padded = np.pad(mask.astype(np.uint8), 1)
        for _ in range(radius):
            padded = cv2.erode(padded, np.ones((3, 3), np.uint8))
        return mask & ~padded[1:-1, 1:-1].astype(bool)

    sums = PanopticStatistics.zeros(num_classes)
    matched_truth, matched_prediction, void = set(), set(), truth == 0
    for t in truth_segments:
        for p in prediction_segments:
            if t["iscrowd"] or t["category_id"] != p["category_id"]:
                continue
            a, b = truth == t["id"], prediction == p["id"]
            if not (a & b).any():
                continue
            iou = (a & b).sum() / (a | b & ~void).sum()
            edge_a, edge_b = band(a), band(b)
            edge_iou = (edge_a & edge_b).sum() / (edge_a | edge_b & ~void).sum()
            if min(iou, edge_iou) > 0.5:
                sums.tp[t["category_id"]] += 1
                sums.iou[t["category_id"]] += min(iou, edge_iou)
                matched_truth.add(t["id"])
                matched_prediction.add(p["id"])
    for t in truth_segments:
        if not t["iscrowd"] and t["id"] not in matched_truth:
            sums.fn[t["category_id"]] += 1
    for p in prediction_segments:
        if p["id"] in matched_prediction:
            continue
        crowds = [
            t["id"] for t in truth_segments if t["iscrowd"] and t["category_id"] == p["category_id"]
        ]
        mask = prediction == p["id"]
        excused = (mask & (void | (truth == (crowds or [0])[-1]))).sum()
        if excused <= 0.5 * mask.sum():
            sums.fp[p["category_id"]] += 1
    return sums


# ---------------------------------------------------------------------------------- pictures


def voronoi(rng: np.random.Generator, height: int, width: int, segments: int) -> np.ndarray:
    """(H, W) cells 0..segments-1 around random centres, some of them without a pixel."""
    rows, columns = np.mgrid[:height, :width]
    centres = rng.uniform(0, [height, width], size=(segments, 2))
    metric = rng.uniform(0.5, 2, size=(segments, 1, 1))
    distance = (rows - centres[:, :1, None]) ** 2 + (columns - centres[:, 1:, None]) ** 2
    return np.argmin(distance * metric, axis=0)


def random_picture(
    rng: np.random.Generator,
    height: int = 40,
    width: int = 56,
    segments: int = 14,
    num_classes: int = 4,
    agreement: float = 0.6,
):
    """A truth with void and crowds, and a prediction that follows it for some cells.

    Ids are drawn from all 24 bits and listed in random order, for the last crowd counts.
    """
    cells = voronoi(rng, height, width, segments)
    noise = rng.random((height, width)) > rng.uniform(0.7, 1)
    other = voronoi(rng, height, width, segments)
    follows = rng.random(segments) < agreement
    predicted = np.where(follows[cells] & ~noise, cells, segments + other)
    ids = rng.choice(2**24 - 3, size=3 * segments, replace=False) + 1
    classes = rng.integers(num_classes, size=3 * segments)
    classes[segments : 2 * segments] = rng.integers(num_classes, size=segments)
    class_of_prediction = classes.copy()
    wrong = rng.random(3 * segments) < 0.15
    class_of_prediction[wrong] = rng.integers(num_classes, size=wrong.sum())

    truth = ids[cells].astype(np.int32)
    truth[np.isin(cells, np.flatnonzero(rng.random(segments) < 0.15))] = 0
    truth_segments = [
        {"id": int(ids[c]), "category_id": int(classes[c]), "iscrowd": int(rng.random() < 0.3)}
        for c in rng.permutation(segments)
    ]
    truth_segments = update_segments(truth, truth_segments)
    if rng.random() < 0.3 and len(truth_segments) > 1:
        truth_segments.pop()  # its pixels stay: neither void nor a segment
    if rng.random() < 0.3:  # listed, but without a pixel; after the crowds, so that it is the last
        truth_segments.append({"id": 2**24 - 1, "category_id": 0, "iscrowd": 1, "area": 9})
        truth_segments.append({"id": 2**24 - 2, "category_id": 0, "iscrowd": 0, "area": 9})
    # Predicted ids coincide with other true ids here and there; that must not matter.
    shuffled = rng.permutation(ids)
    prediction = shuffled[predicted].astype(np.int32)
    prediction[np.isin(predicted, np.flatnonzero(rng.random(2 * segments) < 0.1))] = 0
    prediction_segments = [
        {"id": int(shuffled[c]), "category_id": int(class_of_prediction[c])}
        for c in rng.permutation(2 * segments)
        if (prediction == shuffled[c]).any()
    ]
    return truth, truth_segments, prediction, prediction_segments


def perturbed(rng: np.random.Generator, truth: np.ndarray, truth_segments, num_classes: int):
    """A plausible prediction: the truth shifted, with segments merged, lost or of wrong class."""
    shift = rng.integers(-4, 5, size=2)
    prediction = np.roll(truth, shift, axis=(0, 1))
    segments = [{"id": s["id"], "category_id": s["category_id"]} for s in truth_segments]
    for segment in segments:
        fate = rng.random()
        if fate < 0.1:
            prediction[prediction == segment["id"]] = 0
        elif fate < 0.2:
            segment["category_id"] = int(rng.integers(num_classes))
        elif fate < 0.3:
            prediction[prediction == segment["id"]] = segments[0]["id"]
    return prediction, [s for s in segments if (prediction == s["id"]).any()]


# ---------------------------------------------------------------------- against panopticapi


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
    picture = random_picture(rng, *size, segments, num_classes, agreement)
    assert_equal_to_official(tmp_path_factory.mktemp("maps"), [picture], num_classes)


def test_equals_panopticapi_over_many_pictures(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [random_picture(rng, 64, 80, 20, 6) for _ in range(30)]
    sums = assert_equal_to_official(tmp_path, pictures, 6)
    assert sums.tp.min() > 5 and sums.fp.min() > 5 and sums.fn.min() > 5  # all rules exercised
    ignored = [match_segments(*picture, 6).ignored for picture in pictures]
    assert sum(map(len, ignored)) > 5
    crowds = [[s["category_id"] for s in p[1] if s["iscrowd"]] for p in pictures]
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
    pictures = []
    for seed in range(4):
        scene = scenes.make_scene(seed, scenes.SceneConfig())
        segments = [{**s, "category_id": contiguous[s["category_id"]]} for s in scene.segments_info]
        prediction = perturbed(rng, scene.id_map, segments, num_classes)
        pictures.append((scene.id_map, segments, *prediction))
    sums = assert_equal_to_official(tmp_path, pictures, num_classes)
    assert sums.tp.sum() > 10 and sums.fn.sum() > 3


def test_equals_panopticapi_on_coco(tmp_path, shared_coco):
    rng = np.random.default_rng(3)
    root = Path(shared_coco) / "coco"
    content = json.loads((root / "annotations" / "panoptic_val2017.json").read_text())
    contiguous = {c["id"]: k for k, c in enumerate(content["categories"])}
    pictures = []
    for annotation in content["annotations"]:
        truth = read_id_map(root / "panoptic_val2017" / annotation["file_name"])
        segments = [
            {**s, "category_id": contiguous[s["category_id"]]} for s in annotation["segments_info"]
        ]
        for _ in range(3):
            prediction = perturbed(rng, truth, segments, len(contiguous))
            pictures.append((truth, segments, *prediction))
    assert any(s["iscrowd"] for picture in pictures for s in picture[1])
    sums = assert_equal_to_official(tmp_path, pictures, len(contiguous))
    assert sums.tp.sum() > 20


# ------------------------------------------------------------------------------ boundary PQ


@pytest.mark.parametrize("ratio", [0.001, 0.02, 0.1, 2.0])
def test_boundary_pq_equals_one_erosion_per_mask(ratio):
    rng = np.random.default_rng(4)
    found = 0
    for _ in range(8):
        picture = random_picture(rng, 37, 52, 10, 3, agreement=0.8)
        expected = boundary_statistics_by_masks(picture, 3, ratio)
        ours = statistics_of([picture], 3, boundary_ratio=ratio)
        np.testing.assert_array_equal(
            [ours.tp, ours.fp, ours.fn], [expected.tp, expected.fp, expected.fn]
        )
        np.testing.assert_allclose(ours.iou, expected.iou, rtol=0, atol=1e-12)
        found += int(ours.tp.sum())
    assert found > 5


def test_boundary_pq_of_a_wide_band_is_pq_and_of_a_thin_band_is_lower():
    truth = np.ones((60, 80), np.int32)
    truth[10:50, 20:60] = 2
    prediction = np.ones_like(truth)
    prediction[12:52, 22:62] = 2
    picture = (
        truth,
        [{"id": 1, "category_id": 0, "iscrowd": 0}, {"id": 2, "category_id": 1, "iscrowd": 0}],
        prediction,
        [{"id": 1, "category_id": 0}, {"id": 2, "category_id": 1}],
    )
    plain = statistics_of([picture], 2)
    np.testing.assert_array_equal(statistics_of([picture], 2, boundary_ratio=1.0).iou, plain.iou)
    # The squares share 38 x 38 of 40 x 40 pixels; bands of 2 pixels hardly any.
    assert plain.tp.tolist() == [1, 1]
    assert plain.iou[1] == pytest.approx(38**2 / (2 * 40**2 - 38**2))
    assert statistics_of([picture], 2, boundary_ratio=0.02).tp.tolist() == [0, 0]


def test_boundary_pq_leaves_out_the_whole_void():
    # Truth: columns 0-29 of 40 x 60, the rest void; prediction: columns 0-49. With bands of one
    # pixel the true one has 2 * 40 + 2 * 28 = 136 pixels, the predicted one 2 * 40 + 2 * 48 = 176;
    # they share the left column and 2 * 29 more = 98, and 2 * 20 + 38 = 78 of the predicted one
    # lie in void, most of them far from the void's own outline: 98 / (136 + 176 - 98 - 78).
    truth, prediction = np.zeros((2, 40, 60), np.int32)
    truth[:, :30] = 1
    prediction[:, :50] = 7
    picture = (truth, listed((1, 0, 0)), prediction, listed((7, 0, 0)))
    assert match_segments(*picture, 1).pairs[0].iou == 1
    boundary = match_segments(*picture, 1, boundary_ratio=1e-6)
    assert boundary.pairs[0].iou == pytest.approx(98 / 136)
    assert boundary_statistics_by_masks(picture, 1, 1e-6).iou[0] == pytest.approx(98 / 136)


# ------------------------------------------------------------------------------- by hand


def one_row(labels):
    return np.array([labels], dtype=np.int32)


def listed(*segments):
    return [{"id": i, "category_id": c, "iscrowd": crowd} for i, c, crowd in segments]


def test_worked_example():
    # Truth: segment 1 (class 0) 4 pixels, void 2, segment 2 (class 1) 4. Prediction: segment 7
    # (class 0) on 3 of those 4 and on both void pixels, segment 8 (class 1) on all of 2's.
    truth = one_row([1, 1, 1, 1, 0, 0, 2, 2, 2, 2])
    prediction = one_row([0, 7, 7, 7, 7, 7, 8, 8, 8, 8])
    matches = match_segments(
        truth, listed((1, 0, 0), (2, 1, 0)), prediction, listed((7, 0, 0), (8, 1, 0)), 3
    )
    # Segment 7: 3 / (4 + 5 - 3 - 2) = 3/4.
    assert matches.pairs == ((1, 7, 0, 0.75), (2, 8, 1, 1.0))
    quality = matches.statistics(3).quality([False, True, True])
    assert quality.all == (0.875, 0.875, 1.0, 2)
    assert quality.things == (1.0, 1.0, 1.0, 1)
    assert quality.stuff == (0.75, 0.75, 1.0, 1)
    assert quality.pq[:2].tolist() == [0.75, 1.0] and math.isnan(quality.pq[2])


def test_an_iou_of_one_half_is_no_match():
    truth, prediction = one_row([1, 1, 2, 2]), one_row([5, 6, 6, 6])
    matches = match_segments(
        truth, listed((1, 0, 0), (2, 1, 0)), prediction, listed((5, 0, 0), (6, 0, 0)), 2
    )
    assert matches.pairs == ()  # 1/2 exactly
    assert matches.false_positives == ((5, 0), (6, 0))
    assert matches.false_negatives == ((1, 0), (2, 1))


def test_only_the_last_listed_crowd_of_the_class_excuses_a_prediction():
    truth, prediction = one_row([1, 1, 1, 2]), one_row([5, 5, 5, 5])
    crowds = listed((1, 0, 1), (2, 0, 1))
    predicted = listed((5, 0, 0))
    assert match_segments(truth, crowds, prediction, predicted, 1).false_positives == ((5, 0),)
    assert match_segments(truth, crowds[::-1], prediction, predicted, 1).ignored == ((5, 0),)


def test_exactly_half_in_void_is_still_a_false_positive():
    truth, predicted = one_row([0, 0, 1, 1]), listed((5, 0, 0))
    segments = listed((1, 1, 0))
    half, more = one_row([5, 5, 5, 5]), one_row([5, 5, 5, 0])
    assert match_segments(truth, segments, half, predicted, 2).false_positives == ((5, 0),)
    assert match_segments(truth, segments, more, predicted, 2).ignored == ((5, 0),)


def test_perfect_empty_and_void():
    rng = np.random.default_rng(7)
    truth, segments, _, _ = random_picture(rng)
    segments = update_segments(truth, segments)  # to be a prediction, map and list must agree
    truth[~np.isin(truth, [s["id"] for s in segments])] = 0
    visible = [s for s in segments if not s["iscrowd"]]
    perfect = match_segments(truth, segments, truth, segments, 4).statistics(4)
    assert perfect.tp.sum() == len(visible) and perfect.fn.sum() == perfect.fp.sum() == 0
    assert perfect.quality([True] * 4).all[:3] == (1, 1, 1)
    empty = match_segments(truth, segments, np.zeros_like(truth), [], 4).statistics(4)
    assert empty.fn.sum() == len(visible) and empty.tp.sum() == empty.fp.sum() == 0
    assert empty.quality([True] * 4).all[:3] == (0, 0, 0)
    void = match_segments(np.zeros_like(truth), [], truth, segments, 4)
    assert len(void.ignored) == len(segments)
    quality = void.statistics(4).quality([True, False, False, False])
    for group in (quality.all, quality.things, quality.stuff):
        assert group.num_classes == 0 and all(map(math.isnan, group[:3]))


def test_resized_truth_uses_the_areas_of_the_maps():
    """Listed areas of the full-size picture must not leak into a truth at half size."""
    truth = np.repeat(one_row([1, 1, 2, 2]), 2, axis=0)
    segments = [
        {"id": 1, "category_id": 0, "area": 16},
        {"id": 2, "category_id": 1, "area": 16},
    ]
    assert len(match_segments(truth, segments, truth, segments, 2).pairs) == 2


def test_statistics_add_up_in_any_grouping():
    rng = np.random.default_rng(8)
    pictures = [random_picture(rng) for _ in range(6)]
    whole = statistics_of(pictures, 4)
    parts = statistics_of(pictures[:2], 4) + statistics_of(pictures[2:], 4)
    np.testing.assert_array_equal([whole.tp, whole.fp, whole.fn], [parts.tp, parts.fp, parts.fn])
    np.testing.assert_allclose(whole.iou, parts.iou, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="3 classes"):
        whole += PanopticStatistics.zeros(3)


def test_input_is_not_changed_and_overlaps_can_be_reused():
    picture = random_picture(np.random.default_rng(9))
    before = [
        np.array(x, copy=True) if isinstance(x, np.ndarray) else json.dumps(x) for x in picture
    ]
    overlaps = count_overlaps(picture[0], picture[2])
    assert match_segments(*picture, 4, overlaps=overlaps) == match_segments(*picture, 4)
    for old, new in zip(before, picture, strict=True):
        if isinstance(new, np.ndarray):
            np.testing.assert_array_equal(old, new)
        else:
            assert old == json.dumps(new)


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("truth", "segments", "prediction", "predicted", "message"),
    [
        ([1, 1], [(1, 0, 0)], [5, 6], [(5, 0, 0)], r"segment ids \[6\].*does not list"),
        ([1, 1], [(1, 0, 0)], [5, 5], [(5, 0, 0), (6, 0, 0)], r"\[6\].*no pixel"),
        ([1, 1], [(1, 0, 0)], [5, 5], [(5, 0, 0), (5, 1, 0)], "segment 5 .* listed twice"),
        ([1, 1], [(1, 0, 0), (1, 0, 0)], [5, 5], [(5, 0, 0)], "segment 1 of the truth .* twice"),
        ([1, 1], [(1, 0, 0)], [5, 5], [(5, 2, 0)], r"category_id 2; .* numbered 0\.\.1"),
        ([1, 1], [(1, -1, 0)], [5, 5], [(5, 0, 0)], "category_id -1"),
        ([1, 1], [(1, 0, 0)], [0, 0], [(0, 0, 0)], "id 0, which is void"),
        ([1, 1], [(1, 0, 0)], [2**24, 0], [(2**24, 0, 0)], "segment id 16777216"),
        ([1, 1, 1], [(1, 0, 0)], [5, 5], [(5, 0, 0)], "1 x 3 .* 1 x 2"),
        ([1, 1], [(1, 0, 0)], [-1, 5], [(5, 0, 0)], "outside"),
    ],
)
def test_bad_input_is_refused(truth, segments, prediction, predicted, message):
    with pytest.raises(ValueError, match=message):
        match_segments(
            one_row(truth), listed(*segments), one_row(prediction), listed(*predicted), 2
        )


def test_maps_of_floats_and_wrong_lengths_are_refused():
    with pytest.raises(ValueError, match="integer"):
        match_segments(np.zeros((2, 2)), [], np.zeros((2, 2), np.int32), [], 1)
    with pytest.raises(ValueError, match="is_thing"):
        PanopticStatistics.zeros(3).quality([True])
    with pytest.raises(ValueError, match="num_classes"):
        PanopticStatistics.zeros(0)
    with pytest.raises(ValueError, match="ratio"):
        match_segments(*random_picture(np.random.default_rng(0)), 4, boundary_ratio=0.0)
