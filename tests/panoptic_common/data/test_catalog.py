"""Registration: what Detectron2's catalogs hold, and which errors a wrong data set gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dataset_factory import CITYSCAPES_CLASSES, make_cityscapes, make_coco_panoptic
from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_common.coco.annotations import PanopticPaths
from panoptic_common.data import catalog as register_datasets
from panoptic_common.data.catalog import (
    class_table,
    dataset_paths,
    has_truth,
    load_panoptic,
    register_builtin,
    register_images,
    register_panoptic,
    register_scenes,
    require_files,
)

NAME = "tiny_of_this_test"
SCENES = {
    "HEIGHT": 48,
    "WIDTH": 64,
    "DIFFICULTY": 0.5,
    "SEED": 3,
    "NUM_TRAIN": 3,
    "NUM_VAL": 2,
    "NUM_TEST": 1,
}


@pytest.fixture(autouse=True)
def _catalogs() -> Iterator[None]:
    """Put the catalogs back, so that no other test sees what this one registered."""
    ours = (register_datasets._SOURCES, register_datasets._CLASS_TABLES)
    registries = (DatasetCatalog, MetadataCatalog, *ours)
    saved = [dict(registry) for registry in registries]
    yield
    for registry, content in zip(registries, saved, strict=True):
        registry.clear()
        registry.update(content)


@pytest.fixture
def tiny(tmp_path: Path) -> PanopticPaths:
    paths = make_coco_panoptic(tmp_path)
    register_panoptic(NAME, paths.images, paths.panoptic_json, paths.panoptic_png)
    return paths


def _edit(paths: PanopticPaths, change: Callable[[dict[str, Any]], object]) -> None:
    path = Path(paths.panoptic_json)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


# ------------------------------------------------------------------------------ custom data sets


def test_records_hold_contiguous_classes(tiny: PanopticPaths) -> None:
    records = load_panoptic(NAME)
    assert [record["image_id"] for record in records] == [100, 101, 102]
    first = records[0]
    assert first["file_name"] == str(Path(tiny.images) / "000000000100.jpg")
    assert first["pan_seg_file_name"] == str(Path(tiny.panoptic_png) / "000000000100.png")
    assert (first["height"], first["width"]) == (48, 64)
    # Ascending dataset ids: person 1, road 4, car 7, bus 12, sky 90.
    of = {segment["id"]: segment for segment in first["segments_info"]}
    contiguous = {16777215: 0, 777: 0, 3: 1, 256: 2, 257: 2, 12345678: 3, 65536: 4}
    assert {i: of[i]["category_id"] for i in of} == contiguous
    assert [of[i]["isthing"] for i in (777, 3)] == [True, False]
    assert [of[i]["iscrowd"] for i in (777, 16777215)] == [1, 0]
    assert of[12345678]["area"] == 1 and of[12345678]["bbox"] == [61, 1, 1, 1]


def test_metadata_is_complete_and_the_two_mappings_are_disjoint(tiny: PanopticPaths) -> None:
    load_panoptic(NAME)
    metadata = MetadataCatalog.get(NAME)
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 7: 2, 12: 3}
    assert metadata.stuff_dataset_id_to_contiguous_id == {4: 1, 90: 4}
    names = ["person", "road", "car", "bus", "sky"]
    assert metadata.thing_classes == metadata.stuff_classes == names
    assert metadata.thing_colors == metadata.stuff_colors
    assert metadata.thing_colors[2] == [0, 0, 142]
    assert metadata.class_table == class_table(NAME)
    assert metadata.panoptic_json == tiny.panoptic_json
    assert metadata.panoptic_root == tiny.panoptic_png
    assert metadata.image_root == tiny.images
    assert (metadata.ignore_label, metadata.label_divisor) == (255, 1000)
    assert metadata.evaluator_type == "panoptic"


def test_detectron2_visualizer_draws_a_record(tiny: PanopticPaths) -> None:
    import numpy as np
    import torch
    from detectron2.utils.visualizer import Visualizer

    from panoptic_common.coco.segment_ids import read_id_map

    record = load_panoptic(NAME)[0]
    id_map = torch.from_numpy(read_id_map(record["pan_seg_file_name"]))
    drawn = Visualizer(np.zeros((48, 64, 3), np.uint8), MetadataCatalog.get(NAME))
    drawn = drawn.draw_panoptic_seg(id_map, record["segments_info"])
    assert drawn.get_image().shape == (48, 64, 3)


def test_registering_reads_nothing(tmp_path: Path) -> None:
    register_panoptic(NAME, tmp_path / "a", tmp_path / "b.json", tmp_path / "c")
    assert NAME in DatasetCatalog
    with pytest.raises(FileNotFoundError, match="b.json"):
        load_panoptic(NAME)


def test_class_table_needs_only_the_json(tiny: PanopticPaths) -> None:
    for image in Path(tiny.images).iterdir():
        image.unlink()
    table = class_table(NAME)
    assert [entry["name"] for entry in table] == ["person", "road", "car", "bus", "sky"]
    table[0]["color"][0] = table[0]["id"] = 99  # a copy: the next caller sees the truth
    person = {"id": 1, "name": "person", "isthing": 1, "color": [220, 20, 60]}
    assert class_table(NAME)[0] == person


def test_loading_twice_gives_equal_and_separate_dicts(tiny: PanopticPaths) -> None:
    first, second = load_panoptic(NAME), load_panoptic(NAME)
    assert first == second
    first[0]["segments_info"].clear()
    assert load_panoptic(NAME) == second


def test_the_corrected_json_is_read(tiny: PanopticPaths) -> None:
    load_panoptic(NAME)
    _edit(tiny, lambda data: data["categories"][0].update(name="automobile"))
    load_panoptic(NAME)
    assert MetadataCatalog.get(NAME).thing_classes[2] == "automobile"
    assert class_table(NAME)[2]["name"] == "automobile"


def test_the_same_paths_may_be_registered_again_and_others_not(tiny: PanopticPaths) -> None:
    register_panoptic(NAME, Path(tiny.images), tiny.panoptic_json, tiny.panoptic_png)
    with pytest.raises(ValueError, match=f"{NAME}.*registered already"):
        register_panoptic(NAME, "elsewhere", tiny.panoptic_json, tiny.panoptic_png)
    with pytest.raises(ValueError, match="coco_2014_val.*registered already"):
        register_panoptic("coco_2014_val", "a", "b", "c")


def test_unknown_names_are_explained(tiny: PanopticPaths) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{NAME}'"):
        load_panoptic(NAME[:-1])
    register_builtin()
    with pytest.raises(ValueError, match="unknown data set 'own_train'; registered: .*--register"):
        load_panoptic("own_train")  # none means scenes_train by it
    with pytest.raises(ValueError, match="known to Detectron2 only"):
        class_table("coco_2014_val")


# --------------------------------------------------------------------------------------- errors


# ------------------------------------------------------------------------------ built-in data sets


def test_builtin_names_replace_those_of_detectron2(tmp_path: Path) -> None:
    register_builtin(tmp_path)
    for split in ("train", "val"):
        metadata = MetadataCatalog.get(f"coco_2017_{split}_panoptic")
        assert metadata.evaluator_type == "panoptic"
        assert metadata.panoptic_root == str(tmp_path / "coco" / f"panoptic_{split}2017")
        assert metadata.get("json_file") is None  # nothing of Detectron2's entry is left
        cityscapes = MetadataCatalog.get(f"cityscapes_fine_panoptic_{split}")
        assert cityscapes.evaluator_type == "cityscapes_panoptic"
    with pytest.raises(FileNotFoundError) as raised:
        load_panoptic("cityscapes_fine_panoptic_val")
    assert "panoptic-prepare-cityscapes" in str(raised.value)
    assert "leftImg8bit" in str(raised.value)
    with pytest.raises(FileNotFoundError, match="panoptic_annotations_trainval2017.zip"):
        class_table("coco_2017_val_panoptic")


def test_root_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_builtin()
    assert dataset_paths("coco_2017_val_panoptic").images == str(tmp_path / "coco" / "val2017")
    other = tmp_path / "other"
    register_builtin(other)  # a new root replaces the old one
    assert dataset_paths("coco_2017_val_panoptic").images == str(other / "coco" / "val2017")
    assert register_datasets._SOURCES["scenes_val"].paths.images.startswith(str(other))


def test_coco_classes_equal_detectron2s_standard_form(shared_coco: Path) -> None:
    from detectron2.data.datasets.builtin_meta import _get_builtin_metadata

    register_builtin(shared_coco)
    records = load_panoptic("coco_2017_val_panoptic")
    metadata = MetadataCatalog.get("coco_2017_val_panoptic")
    expected = _get_builtin_metadata("coco_panoptic_standard")
    assert metadata.thing_classes == expected["thing_classes"]
    assert metadata.stuff_colors == expected["stuff_colors"]
    # Detectron2 0.6 lists things in both mappings, so it is compared on the union.
    ours = {
        **metadata.thing_dataset_id_to_contiguous_id,
        **metadata.stuff_dataset_id_to_contiguous_id,
    }
    theirs = {
        **expected["thing_dataset_id_to_contiguous_id"],
        **expected["stuff_dataset_id_to_contiguous_id"],
    }
    assert ours == theirs and len(ours) == 133
    assert len(metadata.thing_dataset_id_to_contiguous_id) == 80
    assert [record["image_id"] for record in records] == [142238, 439180]
    crowds = [s["iscrowd"] for record in records for s in record["segments_info"]]
    assert sum(crowds) == 3


def test_cityscapes_equals_detectron2s_classes_and_finds_its_images(tmp_path: Path) -> None:
    from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES

    make_cityscapes(tmp_path)
    register_builtin(tmp_path)
    records = load_panoptic("cityscapes_fine_panoptic_train")
    assert [Path(record["file_name"]).relative_to(tmp_path).as_posix() for record in records] == [
        f"cityscapes/leftImg8bit/train/{city}/{city}_{number:06d}_000019_leftImg8bit.png"
        for city in ("aachen", "bochum")
        for number in range(2)
    ]
    assert records[0]["image_id"] == "aachen_000000_000019"
    metadata = MetadataCatalog.get("cityscapes_fine_panoptic_train")
    # Detectron2's contiguous ids are the train ids; ours, the rank of the label id, must be equal.
    for mapping, isthing in (
        (metadata.thing_dataset_id_to_contiguous_id, 1),
        (metadata.stuff_dataset_id_to_contiguous_id, 0),
    ):
        assert mapping == {
            entry["id"]: entry["trainId"]
            for entry in CITYSCAPES_CATEGORIES
            if entry["isthing"] == isthing
        }
    assert metadata.thing_classes == [name for _, name, _, _ in CITYSCAPES_CLASSES]
    crowd = [s for s in records[0]["segments_info"] if s["iscrowd"]]
    assert [(s["id"], s["category_id"], s["isthing"]) for s in crowd] == [(24, 11, True)]


# ----------------------------------------------------------------------------------------- scenes


def test_test_sets_have_the_classes_of_their_annotated_splits(tmp_path: Path) -> None:
    """Detectron2's tables, with which class tables of checkpoints agree: 133 and 19."""
    make_cityscapes(tmp_path, splits=("val",))
    register_builtin(tmp_path)
    found = class_table("cityscapes_test")
    truth = class_table("cityscapes_fine_panoptic_val")
    assert [(e["id"], e["name"], e["isthing"]) for e in found] == [
        (e["id"], e["name"], e["isthing"]) for e in truth
    ]
    coco = class_table("coco_2017_test-dev")
    assert (len(coco), sum(entry["isthing"] for entry in coco)) == (133, 80)
    assert not has_truth("coco_2017_test-dev") and has_truth("coco_2017_val_panoptic")
    with pytest.raises(FileNotFoundError, match=r"image_info_test-dev2017\.json\n.*test2017\.zip"):
        load_panoptic("coco_2017_test-dev")
    with pytest.raises(FileNotFoundError, match=r"image_info_test\.json\n.*--splits test"):
        load_panoptic("cityscapes_test")


def test_images_without_truth_have_a_name_of_their_own(tiny: PanopticPaths) -> None:
    arguments = (tiny.images, tiny.panoptic_json, tiny.panoptic_json)
    register_images("alone", *arguments)
    register_images("alone", *arguments)  # the same again
    records = load_panoptic("alone")
    assert [record["image_id"] for record in records] == [100, 101, 102]
    assert "segments_info" not in records[0] and not has_truth("alone")
    assert class_table("alone") == class_table(NAME)
    require_files("alone")
    with pytest.raises(ValueError, match="registered already"):
        register_images("alone", tiny.images, tiny.panoptic_json, "other.json")
    register_images("damaged", tiny.images, tiny.panoptic_json, tiny.panoptic_json)
    Path(tiny.images, "000000000100.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="000000000100.jpg"):
        require_files("damaged")


def test_scenes_are_made_at_the_first_use(tmp_path: Path) -> None:
    register_scenes(tmp_path, SCENES)
    assert len(class_table("scenes_train")) >= 10
    assert list(tmp_path.iterdir()) == []  # neither registering nor the class table makes any
    records = load_panoptic("scenes_train")
    assert len(records) == 3 and (records[0]["height"], records[0]["width"]) == (48, 64)
    made = Path(records[0]["file_name"])
    assert made.is_relative_to(tmp_path / "scenes")
    time = made.stat().st_mtime_ns
    assert load_panoptic("scenes_train") == records
    assert made.stat().st_mtime_ns == time
    assert len(load_panoptic("scenes_val")) == 2
    assert MetadataCatalog.get("scenes_train").class_table == class_table("scenes_val")


def test_other_settings_take_other_folders(tmp_path: Path) -> None:
    register_scenes(tmp_path, SCENES)
    first = dataset_paths("scenes_val")
    for key, value in (("SEED", 4), ("DIFFICULTY", 0.25), ("NUM_VAL", 1), ("WIDTH", 72)):
        register_scenes(tmp_path, {**SCENES, key: value})
        assert dataset_paths("scenes_val") != first
    assert Path(first.panoptic_json).is_file()


def test_builtin_keeps_the_settings_of_registered_scenes(tmp_path: Path) -> None:
    register_scenes(tmp_path, SCENES)
    register_builtin(tmp_path)
    assert len(load_panoptic("scenes_test")) == 1


def test_default_settings_are_those_of_the_config(tmp_path: Path) -> None:
    from detectron2.config import get_cfg

    from panoptic_common.config import add_panoptic_config

    cfg = get_cfg()
    add_panoptic_config(cfg)
    register_builtin(tmp_path)
    default = register_datasets._SOURCES["scenes_train"].paths
    register_scenes(tmp_path, cfg.DATASETS.SCENES)
    assert register_datasets._SOURCES["scenes_train"].paths == default
    assert f"n{cfg.DATASETS.SCENES.NUM_TRAIN}" in default.images
