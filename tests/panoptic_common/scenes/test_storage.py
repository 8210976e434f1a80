"""Scenes on disk: true to the scenes, complete or absent, one writer at a time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from project import ROOT

from panoptic_common.scenes import storage as scenes
from panoptic_common.scenes.storage import CLASSES, Scene, SceneConfig, make_scene, write_scenes

SMALL = SceneConfig(height=64, width=96)
THINGS = {entry["id"] for entry in CLASSES if entry["isthing"]}


def load_split(paths: scenes.ScenePaths) -> tuple[dict, dict]:
    return json.loads(paths.panoptic_json.read_text()), json.loads(paths.instances_json.read_text())


def read_ids(path: Path) -> np.ndarray:
    rgb = np.asarray(Image.open(path)).astype(np.int64)
    return rgb[:, :, 0] + 256 * rgb[:, :, 1] + 65536 * rgb[:, :, 2]


def test_files_hold_the_scenes(tmp_path: Path) -> None:
    from pycocotools import mask as rle

    config = SceneConfig(96, 160)
    paths = write_scenes(tmp_path, "train", 5, seed=9, config=config)
    panoptic, instances = load_split(paths)
    assert [entry["isthing"] for entry in panoptic["categories"]] == [c["isthing"] for c in CLASSES]
    assert {entry["id"] for entry in instances["categories"]} == THINGS
    assert len(panoptic["images"]) == len(panoptic["annotations"]) == 5
    files = sorted(path.name for path in paths.panoptic_png.iterdir())
    assert files == sorted(path.name for path in paths.images.iterdir())
    assert files == [annotation["file_name"] for annotation in panoptic["annotations"]]
    assert [a["id"] for a in instances["annotations"]] == list(
        range(1, len(instances["annotations"]) + 1)
    )
    for image, annotation in zip(panoptic["images"], panoptic["annotations"], strict=True):
        assert annotation["image_id"] == image["id"]
        scene = make_scene(scenes.scene_seed(9, "train", image["id"]), config)
        ids = read_ids(paths.panoptic_png / annotation["file_name"])
        assert np.array_equal(
            np.asarray(Image.open(paths.images / image["file_name"])), scene.image
        )
        assert np.array_equal(ids, scene.id_map)
        expected = [{k: v for k, v in s.items() if k != "isthing"} for s in scene.segments_info]
        assert annotation["segments_info"] == expected
        mine = [a for a in instances["annotations"] if a["image_id"] == image["id"]]
        things = [s for s in scene.segments_info if s["isthing"]]
        assert len(mine) == len(things)
        for instance, segment in zip(mine, things, strict=True):
            assert np.array_equal(rle.decode(instance["segmentation"]) == 1, ids == segment["id"])
            keys = ("category_id", "iscrowd", "area", "bbox")
            assert [instance[k] for k in keys] == [segment[k] for k in keys]


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_workers_do_not_change_the_result(tmp_path: Path) -> None:
    write_scenes(tmp_path / "one", "val", 5, config=SMALL)
    write_scenes(tmp_path / "two", "val", 5, config=SMALL, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_finished_split_is_kept_and_splits_share_a_root(tmp_path: Path) -> None:
    paths = write_scenes(tmp_path, "train", 3, config=SMALL)
    write_scenes(tmp_path, "val", 2, config=SMALL)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert write_scenes(tmp_path, "train", 3, config=SMALL) == paths
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")} == before


@pytest.mark.parametrize(
    "damage", ["settings", "missing image", "no panoptic json", "no instances", "cut json"]
)
def test_other_or_damaged_splits_are_made_anew(tmp_path: Path, caplog, damage: str) -> None:
    paths = write_scenes(tmp_path, "train", 3, config=SMALL)
    good, config = contents(tmp_path), SMALL
    if damage == "settings":
        config = SceneConfig(64, 96, difficulty=0.9)
    elif damage == "missing image":
        (paths.images / "000001.png").unlink()
    elif damage == "no panoptic json":
        paths.panoptic_json.unlink()
    elif damage == "no instances":
        paths.instances_json.unlink()
    else:
        paths.panoptic_json.write_bytes(paths.panoptic_json.read_bytes()[:-40])
    with caplog.at_level("WARNING"):
        write_scenes(tmp_path, "train", 3, config=config)
    assert "made anew" in caplog.text
    assert (contents(tmp_path) == good) == (config == SMALL)
    assert set(contents(tmp_path)) == set(good)


def test_a_killed_run_leaves_nothing_that_looks_finished(tmp_path: Path, monkeypatch) -> None:
    real, made = scenes.make_scene, []

    def stop_at_third(seed: int, config: SceneConfig) -> Scene:
        made.append(seed)
        if len(made) == 3:
            raise KeyboardInterrupt
        return real(seed, config)

    monkeypatch.setattr(scenes, "make_scene", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path, "train", 4, config=SMALL)
    assert contents(tmp_path) == {}
    # SIGKILL runs no clean-up: its folder stays until the next run.
    leftover = tmp_path / ".train.partial-999999" / "split"
    leftover.mkdir(parents=True)
    paths = write_scenes(tmp_path, "train", 4, config=SMALL)
    assert len(list(paths.images.iterdir())) == 4
    assert not list(tmp_path.glob(".train.partial-*"))


def test_concurrent_writers_make_one_split(tmp_path: Path) -> None:
    code = (
        "import sys; from panoptic_common.scenes.storage import *; "
        "write_scenes(sys.argv[1], 'train', 6, config=SceneConfig(64, 96))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "both")]
    running = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    write_scenes(tmp_path / "alone", "train", 6, config=SMALL)
    assert contents(tmp_path / "both") == contents(tmp_path / "alone")


def test_threads_of_one_process_wait_for_each_other(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=write_scenes, args=(tmp_path, "train", 4, 0, SMALL))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(list((tmp_path / "train" / "images").iterdir())) == 4
    assert not list(tmp_path.glob(".train.partial-*"))


def test_foreign_files_are_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "precious.png").write_bytes(b"x")
    with pytest.raises(FileExistsError, match="not made by write_scenes"):
        write_scenes(tmp_path, "train", 1, config=SMALL)
    shutil.rmtree(tmp_path / "train")
    (tmp_path / "panoptic_train.json").write_text('{"images": []}')
    with pytest.raises(FileExistsError, match="panoptic_train.json"):
        write_scenes(tmp_path, "train", 1, config=SMALL)
    assert (tmp_path / "panoptic_train.json").read_text() == '{"images": []}'


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed"):
        make_scene(-1)
    for arguments in (("../up", 1, 0), ("", 1, 0), ("train", 0, 0), ("train", 1, -1)):
        with pytest.raises(ValueError, match="write_scenes"):
            write_scenes(tmp_path, *arguments)
    with pytest.raises(ValueError, match="workers"):
        write_scenes(tmp_path, "train", 1, workers=0)
    assert list(tmp_path.iterdir()) == []
