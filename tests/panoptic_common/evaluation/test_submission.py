"""Predictions on images without truth: what a test server gets, and what it would refuse."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dataset_factory import make_cityscapes, make_coco_panoptic
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_on_dataset
from evaluation_outputs import make_cfg, perfect_output, register
from panopticapi.evaluation import pq_compute
from process_group import run_processes

from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.data.catalog import class_table, load_panoptic, register_images
from panoptic_common.evaluation.build import build_evaluator

TEST_SET = "images_of_this_test"


@pytest.fixture
def sets(tmp_path) -> tuple[str, str, Path]:
    """An annotated set, and its images alone: two names, and the folder of both."""
    paths = make_coco_panoptic(tmp_path)
    content = json.loads(Path(paths.panoptic_json).read_text())
    info = tmp_path / "info.json"
    info.write_text(json.dumps({"images": content["images"]}))
    return register("annotated_of_this_test", paths), register_alone(paths, info), tmp_path


def register_alone(paths, info) -> str:
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(TEST_SET, None)
    register_images(TEST_SET, paths.images, info, paths.panoptic_json)
    return TEST_SET


def outputs_of(annotated: str):
    """A perfect model, which knows the truth of the images by their ids."""
    records = {record["image_id"]: record for record in load_panoptic(annotated)}
    table = class_table(annotated)
    return lambda inputs: [perfect_output(records[x["image_id"]], table) for x in inputs]


def test_the_archive_is_what_the_official_code_scores(sets):
    """panopticapi reads JSON and PNGs out of the unpacked archive, as the server does."""
    annotated, alone, folder = sets
    cfg = make_cfg(folder, visualize=1)
    cfg.MODEL.META_ARCHITECTURE = "MyMethod"
    loader = [[record] for record in load_panoptic(alone)]
    assert all("segments_info" not in record for record in load_panoptic(alone))
    for _ in range(2):  # a second evaluation replaces the files of the first
        evaluator = build_evaluator(cfg, alone)
        assert inference_on_dataset(outputs_of(annotated), loader, evaluator) == {}
    place = folder / "run" / "inference"
    with zipfile.ZipFile(place / "MyMethod.zip") as packed:
        assert sorted(packed.namelist()) == [
            "MyMethod.json",
            *(f"MyMethod/{n:012d}.png" for n in (100, 101, 102)),
        ]
        packed.extractall(folder / "server")
    annotations = json.loads((folder / "server" / "MyMethod.json").read_text())["annotations"]
    assert [annotation["image_id"] for annotation in annotations] == [100, 101, 102]
    assert {s["category_id"] for s in annotations[0]["segments_info"]} == {1, 4, 7, 12, 90}
    with contextlib.redirect_stdout(io.StringIO()):
        scored = pq_compute(
            str(folder / "panoptic_tiny.json"),
            str(folder / "server" / "MyMethod.json"),
            gt_folder=str(folder / "panoptic_tiny"),
        )
    assert scored["All"]["pq"] == 1.0 and scored["All"]["n"] == 5
    assert [path.name for path in (folder / "run" / "images").iterdir()] == ["000_000000000100.png"]


def lacking_segment(output):
    output["panoptic_seg"][1].pop()


def other_size(output):
    output["panoptic_seg"] = (output["panoptic_seg"][0][:-1], output["panoptic_seg"][1])


def no_list(output):
    output["panoptic_seg"] = (output["panoptic_seg"][0], None)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lacking_segment, r"image 100 .*disagree on the ids \[12345678\]"),
        (other_size, r"image 100 .*\(47, 64\) pixels, the image has \(48, 64\)"),
        (no_list, "image 100 .*no segments_info"),
        (lambda output: output.pop("panoptic_seg"), "image 100 .*has no 'panoptic_seg'"),
    ],
)
def test_what_a_server_would_refuse_is_refused_here(sets, spoil, message):
    annotated, alone, folder = sets
    model = outputs_of(annotated)

    def spoiled(inputs):
        outputs = model(inputs)
        spoil(outputs[0])
        return outputs

    evaluator = build_evaluator(make_cfg(folder), alone)
    with pytest.raises(ValueError, match=message):
        inference_on_dataset(spoiled, [[load_panoptic(alone)[0]]], evaluator)


def test_a_missing_image_leaves_no_archive(sets):
    annotated, alone, folder = sets
    loader = [[record] for record in load_panoptic(alone)[:2]]
    with pytest.raises(ValueError, match="no prediction for 1 of the 3 images"):
        inference_on_dataset(
            outputs_of(annotated), loader, build_evaluator(make_cfg(folder), alone)
        )
    assert not list(folder.rglob("*.zip"))


def predict_share(rank: int, count: int, paths, info: str, out: str) -> None:
    """Runs in each of two processes: every other image."""
    annotated, alone = register("annotated_of_this_test", paths), register_alone(paths, info)
    loader = [[r] for r in load_panoptic(alone)[rank::count]]
    cfg = make_cfg(Path(out))
    inference_on_dataset(outputs_of(annotated), loader, build_evaluator(cfg, alone))


def test_two_processes_write_the_archive_of_one(sets):
    annotated, alone, folder = sets
    loader = [[record] for record in load_panoptic(alone)]
    inference_on_dataset(outputs_of(annotated), loader, build_evaluator(make_cfg(folder), alone))
    (folder / "two").mkdir()
    paths = make_coco_panoptic(folder / "two")
    arguments = (paths, str(folder / "info.json"), str(folder / "two"))
    run_processes(2, folder / "processes", predict_share, *arguments)
    contents = []
    for place in (folder, folder / "two"):
        with zipfile.ZipFile(next((place / "run").rglob("*.zip"))) as packed:
            contents.append({name: packed.read(name) for name in packed.namelist()})
    assert contents[0] == contents[1] and len(contents[0]) == 4


def test_images_of_one_name_get_pngs_of_their_own(tmp_path):
    """Cityscapes has a folder per city; here two cities share a file name."""
    tree = make_cityscapes(tmp_path, splits=("val",), num_images=1)
    images = tree / "leftImg8bit" / "val"
    listed = []
    for number, path in enumerate(sorted(images.glob("*/*.png"))):
        path = path.rename(path.with_name("frame.png"))
        name = path.relative_to(images).as_posix()
        listed.append({"id": number, "file_name": name, "height": 64, "width": 128})
    info = tmp_path / "info.json"
    info.write_text(json.dumps({"images": listed}))
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(TEST_SET, None)
    register_images(TEST_SET, images, info, tree / "gtFine" / "cityscapes_panoptic_val.json")

    def nothing(inputs):
        return [{"panoptic_seg": (np.zeros((64, 128), np.int32), [])} for _ in inputs]

    loader = [[record] for record in load_panoptic(TEST_SET)]
    inference_on_dataset(nothing, loader, build_evaluator(make_cfg(tmp_path), TEST_SET))
    folder = next(p for p in (tmp_path / "run" / "inference").iterdir() if p.is_dir())
    pngs = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    assert pngs == ["frankfurt/frame.png", "lindau/frame.png"]
    assert read_id_map(folder / pngs[0]).max() == 0
