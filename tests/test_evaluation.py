"""The evaluators on perfect, wrong, empty and damaged predictions, alone and in two processes."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import json
import logging
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import panoptic_common.compat  # noqa: F401  (before detectron2)
from panoptic_common.compat import launch

import numpy as np
import pytest
import torch
from dataset_factory import make_cityscapes, make_coco_panoptic
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from panopticapi.evaluation import pq_compute

from panoptic_common.config import add_panoptic_config
from panoptic_common.evaluation import PanopticEvaluator, SemanticEvaluator, build_evaluator
from panoptic_common.evaluation_truth import PanopticTruth
from panoptic_common.instance_evaluation import InstanceEvaluator, encode_masks
from panoptic_common.register_datasets import class_table, load_panoptic, register_panoptic
from panoptic_common.segment_ids import read_id_map, write_id_map

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


@pytest.fixture
def paths(tmp_path):
    return make_coco_panoptic(tmp_path, num_images=3)


@pytest.fixture
def tiny(paths):
    name = register("evaluation_tiny", paths)
    yield name
    DatasetCatalog.pop(name)
    MetadataCatalog.pop(name)


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


# ----------------------------------------------------------------------------------- panoptic


def test_perfect_predictions_score_100(tiny, paths, tmp_path):
    results = run(PanopticEvaluator(tiny, tmp_path / "out"), tiny, perfect_output)["panoptic_seg"]
    for suffix in ("", "_th", "_st"):
        for figure in ("PQ", "SQ", "RQ", "PQ_boundary", "SQ_boundary", "RQ_boundary"):
            assert results[figure + suffix] == 100, figure + suffix
    assert results["mIoU_st"] == 100
    # Crowd pixels of a person count in the mIoU, and the prediction has left them void.
    assert 50 < results["mIoU_th"] < 100
    assert results["PQ-car"] == results["PQ-sky"] == 100
    assert all(type(value) is float for value in results.values())
    expected = official(paths, tmp_path / "out")
    assert expected["All"]["pq"] == 1 and expected["All"]["n"] == 5


def test_equals_panopticapi_on_the_files_written(tiny, paths, tmp_path):
    results = run(PanopticEvaluator(tiny, tmp_path), tiny, shifted_output)["panoptic_seg"]
    expected = official(paths, tmp_path)
    assert 5 < results["PQ"] < 95
    for suffix, group in (("", "All"), ("_th", "Things"), ("_st", "Stuff")):
        for figure in ("PQ", "SQ", "RQ"):
            value = 100 * expected[group][figure.lower()]
            assert results[figure + suffix] == pytest.approx(value, abs=1e-10)
    for entry in class_table(tiny):
        value = 100 * expected["per_class"][entry["id"]]["pq"]
        assert results[f"PQ-{entry['name']}"] == pytest.approx(value, abs=1e-10)


def test_official_files_use_dataset_ids_and_leave_nothing_behind(tiny, paths, tmp_path):
    out = tmp_path / "out"
    run(PanopticEvaluator(tiny, out), tiny, perfect_output)
    assert sorted(p.name for p in out.iterdir()) == ["predictions", "predictions.json"]
    content = json.loads((out / "predictions.json").read_text())
    truth = json.loads(Path(paths.panoptic_json).read_text())
    assert [a["image_id"] for a in content["annotations"]] == [100, 101, 102]
    ids = {c["id"] for c in truth["categories"]}
    for annotation in content["annotations"]:
        assert {s["category_id"] for s in annotation["segments_info"]} == ids
        present = set(np.unique(read_id_map(out / "predictions" / annotation["file_name"])))
        assert present - {0} == {s["id"] for s in annotation["segments_info"]}
    assert {c["id"] for c in content["categories"]} == ids


def test_empty_predictions_score_0(tiny):
    results = run(PanopticEvaluator(tiny), tiny, nothing_output)["panoptic_seg"]
    assert results["PQ"] == results["PQ_th"] == results["PQ_st"] == results["mIoU"] == 0


def test_void_truth_is_nan_everywhere(tiny, paths, caplog):
    for record in load_panoptic(tiny):
        write_id_map(record["pan_seg_file_name"], np.zeros((48, 64), np.int32))
    change_json(paths, lambda content: [a["segments_info"].clear() for a in content["annotations"]])
    original = {record["image_id"]: record for record in load_panoptic(tiny)}

    def some_output(record, table):
        ids = torch.ones(48, 64, dtype=torch.int32)
        output = nothing_output(record, table)
        output["panoptic_seg"] = (ids, [{"id": 1, "category_id": 2, "isthing": True}])
        return output

    caplog.set_level(logging.INFO)
    results = run(PanopticEvaluator(tiny), tiny, some_output, original.values())["panoptic_seg"]
    assert all(math.isnan(value) for value in results.values())
    assert "no class of that group occurs" in caplog.text
    semantic = run(SemanticEvaluator(tiny), tiny, some_output)["sem_seg"]
    assert all(math.isnan(value) for value in semantic.values())
    assert all(map(math.isnan, run(InstanceEvaluator(tiny), tiny, some_output)["bbox"].values()))


def test_a_missing_group_is_nan_and_the_other_is_not(tiny, paths):
    def make_all_stuff(content):
        for category in content["categories"]:
            category["isthing"] = 0

    change_json(paths, make_all_stuff)
    name = register("evaluation_all_stuff", paths)
    results = run(PanopticEvaluator(name), name, perfect_output)["panoptic_seg"]
    assert results["PQ"] == results["PQ_st"] == 100
    assert all(math.isnan(results[figure]) for figure in ("PQ_th", "SQ_th", "RQ_th", "mIoU_th"))
    assert run(InstanceEvaluator(name), name, perfect_output) == {}


def test_variants_have_their_own_key_and_files(tiny, tmp_path):
    def with_variant(record, table):
        output = perfect_output(record, table)
        output["panoptic_variants"] = {"heuristic": nothing_output(record, table)["panoptic_seg"]}
        return output

    evaluator = PanopticEvaluator(tiny, tmp_path / "out", variant="heuristic")
    results = run(evaluator, tiny, with_variant)
    assert list(results) == ["panoptic_seg_heuristic"]
    assert results["panoptic_seg_heuristic"]["PQ"] == 0
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["predictions_heuristic", "predictions_heuristic.json"]
    missing = PanopticEvaluator(tiny, variant="untrimmed")
    with pytest.raises(ValueError, match=r"no 'untrimmed', only \['heuristic'\]"):
        run(missing, tiny, with_variant)
    with pytest.raises(ValueError, match="no 'panoptic_variants'"):
        run(missing, tiny, perfect_output)


def test_the_models_output_is_not_changed(tiny, tmp_path):
    table, record = class_table(tiny), load_panoptic(tiny)[0]
    output = shifted_output(record, table)
    before = copy.deepcopy(output)
    for evaluator in (
        PanopticEvaluator(tiny, tmp_path / "out"),
        SemanticEvaluator(tiny),
        InstanceEvaluator(tiny),
    ):
        evaluator.process([record], [output])
    torch.testing.assert_close(output["panoptic_seg"][0], before["panoptic_seg"][0])
    assert output["panoptic_seg"][1] == before["panoptic_seg"][1]
    torch.testing.assert_close(output["sem_seg"], before["sem_seg"])
    torch.testing.assert_close(output["instances"].pred_masks, before["instances"].pred_masks)
    assert record == load_panoptic(tiny)[0]


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
def test_bad_panoptic_output_names_the_picture(tiny, change, message):
    with pytest.raises(ValueError, match=message) as error:
        run(PanopticEvaluator(tiny), tiny, broken(change))
    assert "picture 100" in str(error.value) and ".jpg" in str(error.value)


@pytest.mark.parametrize("kind", [PanopticEvaluator, SemanticEvaluator, InstanceEvaluator])
def test_missing_repeated_and_foreign_pictures_are_refused(tiny, kind):
    records = load_panoptic(tiny)
    with pytest.raises(ValueError, match=r"no prediction for 1 of the 3 .* picture 101 "):
        run(kind(tiny), tiny, perfect_output, [records[0], records[2]])
    with pytest.raises(ValueError, match=r"more than once.* picture 102 "):
        run(kind(tiny), tiny, perfect_output, [*records, records[2]])
    with pytest.raises(ValueError, match=r"picture 7 .* not in data set 'evaluation_tiny'"):
        run(kind(tiny), tiny, perfect_output, [{**records[0], "image_id": 7}])


def test_damaged_truth_names_the_file(tiny):
    path = Path(load_panoptic(tiny)[1]["pan_seg_file_name"])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=path.name):
        table = class_table(tiny)
        output = nothing_output(load_panoptic(tiny)[1], table)
        PanopticEvaluator(tiny).process([load_panoptic(tiny)[1]], [output])


def test_a_wrong_area_in_the_truth_is_warned_of_once(tiny, paths, caplog):
    def change(content):
        content["annotations"][0]["segments_info"][0]["area"] += 5
        content["annotations"][0]["segments_info"][1]["area"] += 5

    change_json(paths, change)
    assert run(PanopticEvaluator(tiny), tiny, perfect_output)["panoptic_seg"]["PQ"] == 100
    warnings = [r.getMessage() for r in caplog.records if "an area of" in r.getMessage()]
    assert len(warnings) == 1 and "picture 100" in warnings[0]


def test_changed_truth_is_read_again_after_reset(tiny):
    evaluator = PanopticEvaluator(tiny)
    records = load_panoptic(tiny)
    assert run(evaluator, tiny, nothing_output)["panoptic_seg"]["PQ"] == 0
    ids = np.full((48, 64), 3, np.int32)
    write_id_map(records[-1]["pan_seg_file_name"], ids)
    evaluator.reset()
    evaluator.process([records[-1]], [nothing_output(records[-1], class_table(tiny))])
    assert evaluator._confusion.sum() == 48 * 64  # no void any more


# ----------------------------------------------------------------------------------- semantic


def test_semantic_ignores_void_and_counts_crowd_as_its_class(tiny):
    results = run(SemanticEvaluator(tiny), tiny, perfect_output)["sem_seg"]
    assert all(value == 100 for value in results.values()), results  # void pixels: class 0
    assert {"mIoU", "mIoU_th", "mIoU_st", "pACC", "IoU-person"} <= set(results)

    def without_crowd(record, table):
        output = perfect_output(record, table)
        crowd = torch.from_numpy(read_id_map(record["pan_seg_file_name"]) == 777)
        output["sem_seg"][:, crowd] = torch.eye(5)[1][:, None]  # "road" instead of person
        return output

    results = run(SemanticEvaluator(tiny), tiny, without_crowd)["sem_seg"]
    assert results["IoU-person"] < 60 and results["IoU-road"] < 100
    assert results["IoU-car"] == 100


def test_semantic_by_hand(tiny):
    """Everything predicted as road: its IoU is its share of the labelled pixels."""
    records = load_panoptic(tiny)
    maps = [read_id_map(record["pan_seg_file_name"]) for record in records]
    road, labelled = (
        sum(int(f(m).sum()) for m in maps) for f in (lambda m: m == 3, lambda m: m > 0)
    )

    def all_road(record, table):
        scores = torch.zeros(5, 48, 64)
        scores[1] = 1
        return {"sem_seg": scores}

    results = run(SemanticEvaluator(tiny), tiny, all_road)["sem_seg"]
    assert results["IoU-road"] == pytest.approx(100 * road / labelled)
    assert results["mIoU"] == pytest.approx(100 * road / labelled / 5)
    assert results["mIoU_st"] == pytest.approx(100 * road / labelled / 2)
    assert results["pACC"] == pytest.approx(100 * road / labelled)
    assert results["mIoU_th"] == 0


@pytest.mark.parametrize(
    ("shape", "message"), [((4, 48, 64), "5 classes"), ((5, 24, 32), "48 x 64 .* 24 x 32")]
)
def test_bad_semantic_output_names_the_picture(tiny, shape, message):
    with pytest.raises(ValueError, match=message) as error:
        run(SemanticEvaluator(tiny), tiny, lambda record, table: {"sem_seg": torch.zeros(shape)})
    assert "picture 100" in str(error.value)


# ---------------------------------------------------------------------------------- instances


def test_perfect_detections_have_ap_100(tiny, tmp_path):
    results = run(InstanceEvaluator(tiny, tmp_path), tiny, perfect_output)
    assert set(results) == {"bbox", "segm"}
    for figures in results.values():
        assert figures["AP"] == pytest.approx(100) and figures["AP-bus"] == pytest.approx(100)
    truth = json.loads((tmp_path / "instances_truth.json").read_text())
    assert len(truth["annotations"]) == 3 * 5  # 2 cars, person, bus, crowd
    assert sum(a["iscrowd"] for a in truth["annotations"]) == 3
    assert min(a["id"] for a in truth["annotations"]) == 1


def test_detections_in_a_crowd_cost_nothing_and_elsewhere_they_do(tiny):
    def with_extra(box):
        def make(record, table):
            output = perfect_output(record, table)
            old = output["instances"]
            masks = torch.zeros(1, 48, 64, dtype=torch.bool)
            masks[0, box[1] : box[3], box[0] : box[2]] = True
            extra = Instances((48, 64))
            extra.pred_boxes = Boxes(torch.tensor([box], dtype=torch.float32))
            extra.scores = torch.tensor([0.99])
            extra.pred_classes = torch.tensor([0])  # person
            extra.pred_masks = masks
            output["instances"] = Instances.cat([extra, old])
            return output

        return make

    inside = run(InstanceEvaluator(tiny), tiny, with_extra([54, 42, 62, 45]))
    assert inside["segm"]["AP-person"] == pytest.approx(100)
    outside = run(InstanceEvaluator(tiny), tiny, with_extra([2, 36, 20, 40]))
    assert outside["segm"]["AP-person"] < 75


def test_no_detection_at_all_is_0_and_without_masks_there_is_only_box_ap(tiny):
    figures = run(InstanceEvaluator(tiny), tiny, nothing_output)["bbox"]
    assert figures["AP"] == figures["APs"] == 0
    assert math.isnan(figures["APl"])  # the pictures hold no large thing

    def boxes_only(record, table):
        output = perfect_output(record, table)
        output["instances"].remove("pred_masks")
        return output

    results = run(InstanceEvaluator(tiny), tiny, boxes_only)
    assert list(results) == ["bbox"] and results["bbox"]["AP"] == pytest.approx(100)


def test_a_model_without_instances_is_no_error_but_half_of_them_is(tiny):
    def none(record, table):
        return {}

    assert run(InstanceEvaluator(tiny), tiny, none) == {}

    def some(record, table):
        return {} if record["image_id"] == 101 else perfect_output(record, table)

    with pytest.raises(ValueError, match=r"1 pictures have no 'instances'.* picture 101 "):
        run(InstanceEvaluator(tiny), tiny, some)


def test_bad_detections_name_the_picture(tiny):
    def wrong_class(record, table):
        output = perfect_output(record, table)
        output["instances"].pred_classes += 1
        return output

    with pytest.raises(ValueError, match=r"picture 100 .* numbered 0\.\.2"):
        run(InstanceEvaluator(tiny), tiny, wrong_class)

    def wrong_size(record, table):
        return {"instances": Instances((10, 10))}

    with pytest.raises(ValueError, match=r"picture 100 .*\(10, 10\)"):
        run(InstanceEvaluator(tiny), tiny, wrong_size)


def test_encoded_masks_decode_to_themselves():
    import pycocotools.mask as mask_util

    masks = np.random.default_rng(0).random((4, 13, 7)) > 0.5
    encoded = json.loads(json.dumps(encode_masks(masks)))
    np.testing.assert_array_equal(mask_util.decode(encoded).transpose(2, 0, 1), masks)
    assert encode_masks(np.zeros((0, 3, 3), bool)) == []


# ----------------------------------------------------------------------------- build_evaluator


def make_cfg(tmp_path, variants=(), visualize=0):
    cfg = get_cfg()
    add_panoptic_config(cfg)
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    cfg.TEST.PANOPTIC_VARIANTS = variants
    cfg.TEST.EVAL_VISUALIZE = visualize
    return cfg


def test_build_evaluator_in_detectron2s_loop(tiny, tmp_path):
    table = class_table(tiny)
    records = {record["image_id"]: record for record in load_panoptic(tiny)}

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
        evaluator = build_evaluator(cfg, tiny)
        results = inference_on_dataset(model, loader, evaluator)
    assert list(results) == ["panoptic_seg", "panoptic_seg_heuristic", "sem_seg", "bbox", "segm"]
    assert results["panoptic_seg"]["PQ"] == results["panoptic_seg_heuristic"]["PQ"] == 100
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert (tmp_path / "run" / "inference" / "predictions.json").is_file()
    pictures = sorted(p.name for p in (tmp_path / "run" / "pictures").iterdir())
    assert pictures == ["000_000000000100.png", "001_000000000101.png"]


def test_boundary_pq_is_reported_with_its_ratio_if_the_config_asks(tiny, tmp_path, caplog):
    table = class_table(tiny)
    loader = [[record] for record in load_panoptic(tiny)]

    def model(inputs):
        return [shifted_output(record, table) for record in inputs]

    found = {}
    for ratio in (0.0, 0.01, 1.0):
        cfg = make_cfg(tmp_path)
        cfg.TEST.BOUNDARY_RATIO = ratio
        caplog.clear()
        with caplog.at_level(logging.INFO):
            results = inference_on_dataset(model, loader, build_evaluator(cfg, tiny))
        found[ratio] = results["panoptic_seg"]
        assert (f"PQ boundary ({ratio:g})" in caplog.text) == (ratio > 0)
    assert not [name for name in found[0.0] if "boundary" in name]
    for suffix in ("", "_th", "_st"):
        # A band as wide as the picture is the mask itself; a thin one sees a shift of two pixels.
        for figure in ("PQ", "SQ", "RQ"):
            wide = found[1.0][f"{figure}_boundary{suffix}"]
            assert wide == pytest.approx(found[0.0][figure + suffix])
        assert found[0.01][f"PQ_boundary{suffix}"] < found[0.0][f"PQ{suffix}"]
    cfg.TEST.BOUNDARY_RATIO = -0.02
    with pytest.raises(ValueError, match="BOUNDARY_RATIO is -0.02"):
        build_evaluator(cfg, tiny)


def test_scenes_have_the_same_figures_from_panopticapi(tmp_path, monkeypatch):
    """Perfect detections of generated scenes, registered by their own JSON."""
    from panoptic_common import scenes

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


# ------------------------------------------------------------------------------------- tools


def load_tool(name: str):
    path = Path(__file__).parents[1] / "tools" / f"{name}.py"
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # a NamedTuple that travels to workers is found by this name
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("workers", ["1", "2"])
def test_tool_scores_the_files_of_an_evaluation(tiny, paths, tmp_path, capsys, workers):
    results = run(PanopticEvaluator(tiny, tmp_path), tiny, shifted_output)["panoptic_seg"]
    tool = load_tool("evaluate_panoptic")
    arguments = [
        "--truth",
        paths.panoptic_json,
        "--predictions",
        str(tmp_path / "predictions.json"),
    ]
    output = str(tmp_path / "figures.json")
    options = ["--workers", workers, "--boundary-ratio", "0.02", "--output", output]
    assert tool.main(arguments + options) == 0
    figures = json.loads(Path(output).read_text())
    for suffix, group in (("", "All"), ("_th", "Things"), ("_st", "Stuff")):
        assert figures["PQ"][group]["SQ"] == pytest.approx(results["SQ" + suffix])
        boundary = figures["boundary PQ (ratio 0.02)"][group]["PQ"]
        assert boundary == pytest.approx(results["PQ_boundary" + suffix])
    assert figures["PQ"]["class car"]["PQ"] == pytest.approx(results["PQ-car"])
    assert "class car" in capsys.readouterr().out

    content = json.loads((tmp_path / "predictions.json").read_text())
    removed = content["annotations"].pop()
    (tmp_path / "predictions.json").write_text(json.dumps(content))
    assert tool.main(arguments) == 1
    assert f"no prediction for picture {removed['image_id']}" in capsys.readouterr().err


def test_tool_names_the_wrong_picture(tiny, paths, tmp_path, capsys):
    run(PanopticEvaluator(tiny, tmp_path), tiny, perfect_output)
    write_id_map(tmp_path / "predictions" / "000000000101.png", np.full((48, 64), 9, np.int32))
    arguments = [
        "--truth",
        paths.panoptic_json,
        "--predictions",
        str(tmp_path / "predictions.json"),
    ]
    assert load_tool("evaluate_panoptic").main([*arguments, "--workers", "1"]) == 1
    assert "picture 101: the predicted map holds the segment ids [9]" in capsys.readouterr().err
    assert load_tool("evaluate_panoptic").main(["--truth", "no.json", *arguments[2:]]) == 1
    assert "no.json" in capsys.readouterr().err


def test_benchmark_runs_and_compares(capsys):
    tool = load_tool("benchmark_quality")
    assert tool.main(["--sizes", "40x50", "--pictures", "2", "--repeats", "1"]) == 0
    assert "40x50" in capsys.readouterr().out


# --------------------------------------------------------------------------------- processes


def evaluate_share(paths, out: str) -> None:
    """Runs in each of two processes: every other picture; process 0 stores the results."""
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
    try:  # a missing picture is an error in every process, so that none waits for the others
        run(SemanticEvaluator(name, truth=truth), name, shifted_output, records[:1])
    except ValueError as error:
        results[f"error{comm.get_rank()}"] = str(error)
    Path(out, f"results{comm.get_rank()}.json").write_text(json.dumps(results))


def test_two_processes_give_the_figures_of_one(tiny, paths, tmp_path):
    alone, both = tmp_path / "alone", tmp_path / "both"
    for folder in (alone, both):
        folder.mkdir()
    launch(evaluate_share, 1, args=(paths, str(alone)))
    launch(evaluate_share, 2, num_processes=2, args=(paths, str(both)))
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


# ------------------------------------------------------------------------------- Cityscapes


@pytest.fixture
def cityscapes(tmp_path):
    root = make_cityscapes(tmp_path, splits=("val",))
    paths = SimpleNamespace(
        images=str(root / "leftImg8bit" / "val"),
        panoptic_json=str(root / "gtFine" / "cityscapes_panoptic_val.json"),
        panoptic_png=str(root / "gtFine" / "cityscapes_panoptic_val"),
    )
    return register("evaluation_cityscapes", paths, "cityscapes_panoptic")


def test_cityscapes_without_its_scripts_or_truth_says_so(cityscapes, tmp_path, caplog, monkeypatch):
    from panoptic_common import cityscapes_evaluation as module

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    truth = PanopticTruth(cityscapes)
    assert module.cityscapes_evaluators(truth) == []
    assert "cityscapesscripts is not installed" in caplog.text
    monkeypatch.undo()
    caplog.set_level(logging.INFO)
    MetadataCatalog.get(cityscapes).gt_dir = str(tmp_path / "nowhere")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: object())
    assert module.cityscapes_evaluators(truth) == []
    assert "there is no folder" in caplog.text


def test_cityscapes_panoptic_and_ap_with_text_image_ids(cityscapes):
    assert (
        run(PanopticEvaluator(cityscapes), cityscapes, perfect_output)["panoptic_seg"]["PQ"] == 100
    )
    results = run(InstanceEvaluator(cityscapes), cityscapes, perfect_output)
    assert results["segm"]["AP"] == pytest.approx(100)


def test_cityscapes_own_measures(cityscapes, tmp_path):
    pytest.importorskip("cityscapesscripts")
    had_in1d = hasattr(np, "in1d")
    results = inference_on_dataset(
        lambda inputs: [perfect_output(image, class_table(cityscapes)) for image in inputs],
        [[record] for record in load_panoptic(cityscapes)],
        build_evaluator(make_cfg(tmp_path), cityscapes),
    )
    assert results["cityscapes_instances"]["AP"] == pytest.approx(100)
    assert results["cityscapes_sem_seg"]["IoU"] == pytest.approx(100)
    assert hasattr(np, "in1d") == had_in1d  # what was lent is taken back
    results = inference_on_dataset(
        lambda inputs: [nothing_output(image, class_table(cityscapes)) for image in inputs],
        [[record] for record in load_panoptic(cityscapes)],
        build_evaluator(make_cfg(tmp_path), cityscapes),
    )
    assert results["cityscapes_instances"]["AP"] == 0
    assert results["cityscapes_sem_seg"]["IoU"] < 20


def test_a_missing_gt_fine_picture_is_named(cityscapes):
    pytest.importorskip("cityscapesscripts")
    from panoptic_common.cityscapes_evaluation import cityscapes_evaluators, ground_truth_folder

    path = next(ground_truth_folder(cityscapes).rglob("*_labelIds.png"))
    path.unlink()
    evaluator = cityscapes_evaluators(PanopticTruth(cityscapes))[1]
    with pytest.raises(FileNotFoundError, match=path.name):
        run(evaluator, cityscapes, perfect_output)
