"""The evaluators on perfect, wrong, empty and damaged predictions, alone and in two processes."""

from __future__ import annotations

import copy
import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace

import panoptic_common.compat  # noqa: F401  (before detectron2)
from panoptic_common.compat.launch import launch

import numpy as np
import pytest
import torch
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm
from evaluation_outputs import (
    change_json,
    make_cfg,
    nothing_output,
    official,
    perfect_output,
    register,
    run,
    shifted_output,
)

from panoptic_common.coco.segment_ids import read_id_map, write_id_map
from panoptic_common.data.catalog import class_table, load_panoptic
from panoptic_common.evaluation.build import build_evaluator
from panoptic_common.evaluation.instances import InstanceEvaluator
from panoptic_common.evaluation.panoptic import PanopticEvaluator
from panoptic_common.evaluation.semantic import SemanticEvaluator
from panoptic_common.evaluation.truth import PanopticTruth

# ----------------------------------------------------------------------------------- panoptic


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


def test_empty_predictions_score_0(tiny_dataset):
    results = run(PanopticEvaluator(tiny_dataset), tiny_dataset, nothing_output)["panoptic_seg"]
    assert results["PQ"] == results["PQ_th"] == results["PQ_st"] == results["mIoU"] == 0


def test_void_truth_is_nan_everywhere(tiny_dataset, coco_paths, caplog):
    for record in load_panoptic(tiny_dataset):
        write_id_map(record["pan_seg_file_name"], np.zeros((48, 64), np.int32))
    change_json(
        coco_paths, lambda content: [a["segments_info"].clear() for a in content["annotations"]]
    )
    original = {record["image_id"]: record for record in load_panoptic(tiny_dataset)}

    def some_output(record, table):
        ids = torch.ones(48, 64, dtype=torch.int32)
        output = nothing_output(record, table)
        output["panoptic_seg"] = (ids, [{"id": 1, "category_id": 2, "isthing": True}])
        return output

    caplog.set_level(logging.INFO)
    results = run(PanopticEvaluator(tiny_dataset), tiny_dataset, some_output, original.values())[
        "panoptic_seg"
    ]
    assert all(math.isnan(value) for value in results.values())
    assert "no class of that group occurs" in caplog.text
    semantic = run(SemanticEvaluator(tiny_dataset), tiny_dataset, some_output)["sem_seg"]
    assert all(math.isnan(value) for value in semantic.values())
    assert all(
        map(
            math.isnan,
            run(InstanceEvaluator(tiny_dataset), tiny_dataset, some_output)["bbox"].values(),
        )
    )


def test_a_missing_group_is_nan_and_the_other_is_not(tiny_dataset, coco_paths):
    def make_all_stuff(content):
        for category in content["categories"]:
            category["isthing"] = 0

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


def test_the_models_output_is_not_changed(tiny_dataset, tmp_path):
    table, record = class_table(tiny_dataset), load_panoptic(tiny_dataset)[0]
    output = shifted_output(record, table)
    before = copy.deepcopy(output)
    for evaluator in (
        PanopticEvaluator(tiny_dataset, tmp_path / "out"),
        SemanticEvaluator(tiny_dataset),
        InstanceEvaluator(tiny_dataset),
    ):
        evaluator.process([record], [output])
    torch.testing.assert_close(output["panoptic_seg"][0], before["panoptic_seg"][0])
    assert output["panoptic_seg"][1] == before["panoptic_seg"][1]
    torch.testing.assert_close(output["sem_seg"], before["sem_seg"])
    torch.testing.assert_close(output["instances"].pred_masks, before["instances"].pred_masks)
    assert record == load_panoptic(tiny_dataset)[0]


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


@pytest.mark.parametrize("kind", [PanopticEvaluator, SemanticEvaluator, InstanceEvaluator])
def test_missing_repeated_and_foreign_images_are_refused(tiny_dataset, kind):
    records = load_panoptic(tiny_dataset)
    with pytest.raises(ValueError, match=r"no prediction for 1 of the 3 .* image 101 "):
        run(kind(tiny_dataset), tiny_dataset, perfect_output, [records[0], records[2]])
    with pytest.raises(ValueError, match=r"more than once.* image 102 "):
        run(kind(tiny_dataset), tiny_dataset, perfect_output, [*records, records[2]])
    with pytest.raises(ValueError, match=r"image 7 .* not in data set 'evaluation_tiny'"):
        run(kind(tiny_dataset), tiny_dataset, perfect_output, [{**records[0], "image_id": 7}])


def test_damaged_truth_names_the_file(tiny_dataset):
    path = Path(load_panoptic(tiny_dataset)[1]["pan_seg_file_name"])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=path.name):
        table = class_table(tiny_dataset)
        output = nothing_output(load_panoptic(tiny_dataset)[1], table)
        PanopticEvaluator(tiny_dataset).process([load_panoptic(tiny_dataset)[1]], [output])


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


def test_changed_truth_is_read_again_after_reset(tiny_dataset):
    evaluator = PanopticEvaluator(tiny_dataset)
    records = load_panoptic(tiny_dataset)
    assert run(evaluator, tiny_dataset, nothing_output)["panoptic_seg"]["PQ"] == 0
    ids = np.full((48, 64), 3, np.int32)
    write_id_map(records[-1]["pan_seg_file_name"], ids)
    evaluator.reset()
    evaluator.process([records[-1]], [nothing_output(records[-1], class_table(tiny_dataset))])
    assert evaluator._confusion.sum() == 48 * 64  # no void any more


# ----------------------------------------------------------------------------------- semantic


def test_semantic_ignores_void_and_counts_crowd_as_its_class(tiny_dataset):
    results = run(SemanticEvaluator(tiny_dataset), tiny_dataset, perfect_output)["sem_seg"]
    assert all(value == 100 for value in results.values()), results  # void pixels: class 0
    assert {"mIoU", "mIoU_th", "mIoU_st", "pACC", "IoU-person"} <= set(results)

    def without_crowd(record, table):
        output = perfect_output(record, table)
        crowd = torch.from_numpy(read_id_map(record["pan_seg_file_name"]) == 777)
        output["sem_seg"][:, crowd] = torch.eye(5)[1][:, None]  # "road" instead of person
        return output

    results = run(SemanticEvaluator(tiny_dataset), tiny_dataset, without_crowd)["sem_seg"]
    assert results["IoU-person"] < 60 and results["IoU-road"] < 100
    assert results["IoU-car"] == 100


def test_semantic_by_hand(tiny_dataset):
    """Everything predicted as road: its IoU is its share of the labelled pixels."""
    records = load_panoptic(tiny_dataset)
    maps = [read_id_map(record["pan_seg_file_name"]) for record in records]
    road, labelled = (
        sum(int(f(m).sum()) for m in maps) for f in (lambda m: m == 3, lambda m: m > 0)
    )

    def all_road(record, table):
        scores = torch.zeros(5, 48, 64)
        scores[1] = 1
        return {"sem_seg": scores}

    results = run(SemanticEvaluator(tiny_dataset), tiny_dataset, all_road)["sem_seg"]
    assert results["IoU-road"] == pytest.approx(100 * road / labelled)
    assert results["mIoU"] == pytest.approx(100 * road / labelled / 5)
    assert results["mIoU_st"] == pytest.approx(100 * road / labelled / 2)
    assert results["pACC"] == pytest.approx(100 * road / labelled)
    assert results["mIoU_th"] == 0


@pytest.mark.parametrize(
    ("shape", "message"), [((4, 48, 64), "5 classes"), ((5, 24, 32), "48 x 64 .* 24 x 32")]
)
def test_bad_semantic_output_names_the_image(tiny_dataset, shape, message):
    with pytest.raises(ValueError, match=message) as error:
        run(
            SemanticEvaluator(tiny_dataset),
            tiny_dataset,
            lambda record, table: {"sem_seg": torch.zeros(shape)},
        )
    assert "image 100" in str(error.value)


# ----------------------------------------------------------------------------- build_evaluator


def test_build_evaluator_in_detectron2s_loop(tiny_dataset, tmp_path):
    table = class_table(tiny_dataset)
    records = {record["image_id"]: record for record in load_panoptic(tiny_dataset)}

    def model(inputs):
        outputs = []
        for image in inputs:
            output = perfect_output(records[image["image_id"]], table)
            output["panoptic_variants"] = {"heuristic": output["panoptic_seg"]}
            outputs.append(output)
        return outputs

    cfg = make_cfg(tmp_path, ("heuristic",), visualize=2)
    loader = [[record] for record in records.values()]
    for _ in range(2):  # as during training: the second evaluation replaces the files
        evaluator = build_evaluator(cfg, tiny_dataset)
        results = inference_on_dataset(model, loader, evaluator)
    assert list(results) == ["panoptic_seg", "panoptic_seg_heuristic", "sem_seg", "bbox", "segm"]
    assert results["panoptic_seg"]["PQ"] == results["panoptic_seg_heuristic"]["PQ"] == 100
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert (tmp_path / "run" / "inference" / "predictions.json").is_file()
    images = sorted(p.name for p in (tmp_path / "run" / "images").iterdir())
    assert images == ["000_000000000100.png", "001_000000000101.png"]


def test_boundary_pq_is_reported_with_its_ratio_if_the_config_asks(tiny_dataset, tmp_path, caplog):
    table = class_table(tiny_dataset)
    loader = [[record] for record in load_panoptic(tiny_dataset)]

    def model(inputs):
        return [shifted_output(record, table) for record in inputs]

    found = {}
    for ratio in (0.0, 0.01, 1.0):
        cfg = make_cfg(tmp_path)
        cfg.TEST.BOUNDARY_RATIO = ratio
        caplog.clear()
        with caplog.at_level(logging.INFO):
            results = inference_on_dataset(model, loader, build_evaluator(cfg, tiny_dataset))
        found[ratio] = results["panoptic_seg"]
        assert (f"PQ boundary ({ratio:g})" in caplog.text) == (ratio > 0)
    assert not [name for name in found[0.0] if "boundary" in name]
    for suffix in ("", "_th", "_st"):
        # A band as wide as the image is the mask itself; a thin one sees a shift of two pixels.
        for figure in ("PQ", "SQ", "RQ"):
            wide = found[1.0][f"{figure}_boundary{suffix}"]
            assert wide == pytest.approx(found[0.0][figure + suffix])
        assert found[0.01][f"PQ_boundary{suffix}"] < found[0.0][f"PQ{suffix}"]
    cfg.TEST.BOUNDARY_RATIO = -0.02
    with pytest.raises(ValueError, match="BOUNDARY_RATIO is -0.02"):
        build_evaluator(cfg, tiny_dataset)


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


# --------------------------------------------------------------------------------- processes


def evaluate_share(paths, out: str) -> None:
    """Runs in each of two processes: every other image; process 0 stores the results."""
    name = register("evaluation_tiny", paths)
    records = load_panoptic(name)[comm.get_rank() :: comm.get_world_size()]
    truth = PanopticTruth(name)
    results = {}
    for evaluator in (
        PanopticEvaluator(name, out, truth=truth),
        SemanticEvaluator(name, truth=truth),
        InstanceEvaluator(name, truth=truth),
    ):
        part = run(evaluator, name, shifted_output, records)
        assert comm.is_main_process() or part == {}
        results |= part
    try:  # a missing image is an error in every process, so that none waits for the others
        run(SemanticEvaluator(name, truth=truth), name, shifted_output, records[:1])
    except ValueError as error:
        results[f"error{comm.get_rank()}"] = str(error)
    Path(out, f"results{comm.get_rank()}.json").write_text(json.dumps(results))


def test_two_processes_give_the_figures_of_one(tiny_dataset, coco_paths, tmp_path):
    alone, both = tmp_path / "alone", tmp_path / "both"
    for folder in (alone, both):
        folder.mkdir()
    launch(evaluate_share, 1, args=(coco_paths, str(alone)))
    launch(evaluate_share, 2, num_processes=2, args=(coco_paths, str(both)))
    expected = json.loads((alone / "results0.json").read_text())
    found = json.loads((both / "results0.json").read_text())
    for key in ("panoptic_seg", "sem_seg", "bbox", "segm"):
        assert found[key] == pytest.approx(expected[key], abs=1e-10, nan_ok=True), key
    other = json.loads((both / "results1.json").read_text())
    assert "no prediction for 1 of the 3" in found["error0"] == other["error1"]
    merged, single = ((d / "predictions.json").read_text() for d in (both, alone))
    assert merged == single
    assert sorted(p.name for p in (both / "predictions").iterdir()) == [
        f"{100 + n:012d}.png" for n in range(3)
    ]
    assert not list(both.glob("*process*"))
