"""PQ and mIoU of panoptic outputs: perfect, wrong, empty, and those of panopticapi."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from evaluation_outputs import (
    change_json,
    nothing_output,
    official,
    perfect_output,
    register,
    run,
    shifted_output,
)

from panoptic_common.data.catalog import class_table
from panoptic_common.evaluation.instances import InstanceEvaluator
from panoptic_common.evaluation.panoptic import PanopticEvaluator


def test_perfect_predictions_score_100(tiny_dataset, coco_paths, tmp_path):
    results = run(PanopticEvaluator(tiny_dataset, tmp_path / "out"), tiny_dataset, perfect_output)[
        "panoptic_seg"
    ]
    for suffix in ("", "_th", "_st"):
        for figure in ("PQ", "SQ", "RQ", "PQ_boundary", "SQ_boundary", "RQ_boundary"):
            assert results[figure + suffix] == 100, figure + suffix
    assert results["mIoU_st"] == 100
    # Crowd pixels of a person count in the mIoU, and the prediction has left them void.
    assert 50 < results["mIoU_th"] < 100
    assert results["PQ-car"] == results["PQ-sky"] == 100
    assert all(type(value) is float for value in results.values())
    expected = official(coco_paths, tmp_path / "out")
    assert expected["All"]["pq"] == 1 and expected["All"]["n"] == 5


def test_equals_panopticapi_on_the_files_written(tiny_dataset, coco_paths, tmp_path):
    results = run(PanopticEvaluator(tiny_dataset, tmp_path), tiny_dataset, shifted_output)[
        "panoptic_seg"
    ]
    expected = official(coco_paths, tmp_path)
    assert 5 < results["PQ"] < 95
    for suffix, group in (("", "All"), ("_th", "Things"), ("_st", "Stuff")):
        for figure in ("PQ", "SQ", "RQ"):
            value = 100 * expected[group][figure.lower()]
            assert results[figure + suffix] == pytest.approx(value, abs=1e-10)
    for entry in class_table(tiny_dataset):
        value = 100 * expected["per_class"][entry["id"]]["pq"]
        assert results[f"PQ-{entry['name']}"] == pytest.approx(value, abs=1e-10)


def test_empty_predictions_score_0(tiny_dataset):
    results = run(PanopticEvaluator(tiny_dataset), tiny_dataset, nothing_output)["panoptic_seg"]
    assert results["PQ"] == results["PQ_th"] == results["PQ_st"] == results["mIoU"] == 0


def test_a_truth_without_a_segment_is_refused(tiny_dataset, coco_paths):
    change_json(
        coco_paths, lambda content: [a["segments_info"].clear() for a in content["annotations"]]
    )
    with pytest.raises(ValueError, match="not one pixel is labelled"):
        PanopticEvaluator(tiny_dataset)


def test_a_missing_group_is_nan_and_the_other_is_not(tiny_dataset, coco_paths):
    def make_all_stuff(content):
        for category in content["categories"]:
            category["isthing"] = 0
        # Stuff has one segment per class and image, crowds aside.
        for annotation in content["annotations"]:
            seen = set()
            for segment in annotation["segments_info"]:
                segment["iscrowd"] |= segment["category_id"] in seen
                seen.add(segment["category_id"])

    change_json(coco_paths, make_all_stuff)
    name = register("evaluation_all_stuff", coco_paths)
    results = run(PanopticEvaluator(name), name, perfect_output)["panoptic_seg"]
    assert results["PQ"] == results["PQ_st"] == 100
    assert all(math.isnan(results[figure]) for figure in ("PQ_th", "SQ_th", "RQ_th", "mIoU_th"))
    assert run(InstanceEvaluator(name), name, perfect_output) == {}


def test_variants_have_their_own_key_and_files(tiny_dataset, tmp_path):
    def with_variant(record, table):
        output = perfect_output(record, table)
        output["panoptic_variants"] = {"heuristic": nothing_output(record, table)["panoptic_seg"]}
        return output

    evaluator = PanopticEvaluator(tiny_dataset, tmp_path / "out", variant="heuristic")
    results = run(evaluator, tiny_dataset, with_variant)
    assert list(results) == ["panoptic_seg_heuristic"]
    assert results["panoptic_seg_heuristic"]["PQ"] == 0
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["predictions_heuristic", "predictions_heuristic.json"]
    missing = PanopticEvaluator(tiny_dataset, variant="untrimmed")
    with pytest.raises(ValueError, match=r"no 'untrimmed', only \['heuristic'\]"):
        run(missing, tiny_dataset, with_variant)
    with pytest.raises(ValueError, match="no 'panoptic_variants'"):
        run(missing, tiny_dataset, perfect_output)


def broken(change):
    def make(record, table):
        output = perfect_output(record, table)
        ids, segments = output["panoptic_seg"]
        output["panoptic_seg"] = change(ids, segments)
        return output

    return make


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids, s: (ids, s[1:]), r"does not list"),
        (lambda ids, s: (ids, [*s, s[0]]), r"listed twice"),
        (lambda ids, s: (ids, [*s, {"id": 5, "category_id": 0}]), r"\[5\].* no pixel"),
        (lambda ids, s: (ids, [{**s[0], "category_id": 5}, *s[1:]]), r"category_id 5"),
        (lambda ids, s: (ids[:-1], s), r"48 x 64 pixels .* 47 x 64"),
        (lambda ids, s: (ids.float(), s), r"integer"),
        (lambda ids, s: (ids, None), r"no segments_info"),
    ],
)
def test_bad_panoptic_output_names_the_image(tiny_dataset, change, message):
    with pytest.raises(ValueError, match=message) as error:
        run(PanopticEvaluator(tiny_dataset), tiny_dataset, broken(change))
    assert "image 100" in str(error.value) and ".jpg" in str(error.value)


def test_a_wrong_area_in_the_truth_is_warned_of_once(tiny_dataset, coco_paths, caplog):
    def change(content):
        content["annotations"][0]["segments_info"][0]["area"] += 5
        content["annotations"][0]["segments_info"][1]["area"] += 5

    change_json(coco_paths, change)
    assert (
        run(PanopticEvaluator(tiny_dataset), tiny_dataset, perfect_output)["panoptic_seg"]["PQ"]
        == 100
    )
    warnings = [r.getMessage() for r in caplog.records if "an area of" in r.getMessage()]
    assert len(warnings) == 1 and "image 100" in warnings[0]


def test_scenes_have_the_same_figures_from_panopticapi(tmp_path):
    """Perfect detections of generated scenes, registered by their own JSON."""
    from panoptic_common.scenes import storage as scenes

    scenes.write_scenes(
        tmp_path, "tiny", 3, 11, scenes.SceneConfig(height=96, width=192), workers=1
    )
    found = {p.name: p for p in tmp_path.rglob("*") if p.name in ("images", "panoptic")}
    paths = SimpleNamespace(
        images=str(found["images"]),
        panoptic_png=str(found["panoptic"]),
        panoptic_json=str(next(tmp_path.rglob("panoptic_tiny.json"))),
    )
    name = register("evaluation_scenes", paths)
    results = run(PanopticEvaluator(name, tmp_path / "out"), name, shifted_output)["panoptic_seg"]
    expected = official(paths, tmp_path / "out")
    for suffix, group in (("", "All"), ("_th", "Things"), ("_st", "Stuff")):
        assert results["PQ" + suffix] == pytest.approx(100 * expected[group]["pq"], abs=1e-10)
    figures = run(InstanceEvaluator(name), name, perfect_output)
    assert figures["segm"]["AP"] == pytest.approx(100)
