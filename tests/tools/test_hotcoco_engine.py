"""PQ counted by hotcoco: what it is given, what it is not, and its figures beside ours."""

from __future__ import annotations

import importlib.util
import json
import struct
import sys
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from panoptic_maps import random_image, statistics_of

from panoptic_common.coco.segment_ids import write_id_map
from panoptic_tools import evaluate_panoptic, hotcoco_engine
from panoptic_tools.evaluate_panoptic import Task

CLASSES = 4


def write_tasks(folder: Path, images) -> list[Task]:
    tasks = []
    for number, (truth, true_segments, prediction, predicted) in enumerate(images):
        paths = [folder / f"{number}_{name}.png" for name in ("truth", "prediction")]
        for path, ids in zip(paths, (truth, prediction), strict=True):
            write_id_map(path, ids)
        tasks.append(
            Task(
                f"image {number}",
                str(paths[0]),
                true_segments,
                str(paths[1]),
                predicted,
                CLASSES,
                None,
            )
        )
    return tasks


@pytest.fixture
def tasks(tmp_path) -> list[Task]:
    rng = np.random.default_rng(0)
    images = [random_image(rng, 40, 56, 14, CLASSES, unlisted=0) for _ in range(8)]
    return write_tasks(tmp_path, images)


class Recorder:
    """In place of `PanopticEval`: keeps what it gets."""

    given: tuple = ()

    def __init__(self, truth, prediction, *, gt_folder, pred_folder) -> None:
        type(self).given = (truth, prediction, gt_folder, pred_folder)

    def evaluate(self) -> None:
        pass

    def results(self) -> dict:
        figures = {"pq": 0.5, "sq": 1, "rq": 1, "iou": 1.5, "tp": 2, "fp": 1, "fn": 1}
        return {"per_class": {"1": figures, 3: {**figures, "tp": 7}}}


@pytest.fixture
def recorder(monkeypatch) -> type[Recorder]:
    package, module = ModuleType("hotcoco"), ModuleType("hotcoco.panoptic")
    package.__spec__ = object()  # what importlib.util.find_spec asks a loaded module for
    module.PanopticEval = Recorder
    monkeypatch.setitem(sys.modules, "hotcoco", package)
    monkeypatch.setitem(sys.modules, "hotcoco.panoptic", module)
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    return Recorder


def test_it_gets_numbers_for_ids_and_no_areas(tasks, recorder):
    sums = hotcoco_engine.count(tasks, CLASSES, 2)
    assert sums.tp.tolist() == [0, 2, 0, 7] and sums.iou.tolist() == [0, 1.5, 0, 1.5]
    truth, prediction, *folders = recorder.given
    assert folders == ["", ""] and [i["id"] for i in truth["images"]] == list(range(8))
    for side, name in ((truth, "truth"), (prediction, "prediction")):
        for number, annotation in enumerate(side["annotations"]):
            assert annotation["image_id"] == number
            assert Path(annotation["file_name"]).is_absolute()
            assert Path(annotation["file_name"]).name == f"{number}_{name}.png"
            for segment in annotation["segments_info"]:
                assert set(segment) == {"id", "category_id", "iscrowd"}
    crowds = [s["iscrowd"] for a in truth["annotations"] for s in a["segments_info"]]
    assert set(crowds) == {0, 1}


def _sixteen_bits(task: Task) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        size, check = struct.pack(">I", len(data)), struct.pack(">I", zlib.crc32(name + data))
        return size + name + data + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(7))) + chunk(b"IEND", b"")
    Path(task.prediction_png).write_bytes(b"\x89PNG\r\n\x1a\n" + head + body)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.truth_segments.append(t.truth_segments[0]),
            "image 1': segment .* listed twice",
        ),
        (lambda t: t.truth_segments[0].update(category_id=9), "image 1': .* category_id 9"),
        (lambda t: t.prediction_segments[0].update(id=0), "image 1': .* id 0"),
        (_sixteen_bits, "image 1': .*16 bits per channel"),
    ],
)
def test_what_it_would_accept_is_refused_before(tasks, recorder, change, message):
    recorder.given = ()
    change(tasks[1])
    with pytest.raises(ValueError, match=message):
        hotcoco_engine.count(tasks, CLASSES, 1)
    assert recorder.given == ()


def test_ids_that_the_truth_does_not_list_are_refused_as_without_it(tasks, monkeypatch, request):
    """By the recorder, whose refusal of them is pretended, and by hotcoco where it is installed."""
    if importlib.util.find_spec("hotcoco") is None:
        request.getfixturevalue("recorder")

        def refuse_truth_as_prediction(self) -> None:
            if self.given[0]["annotations"] is self.given[1]["annotations"]:
                raise ValueError("predicted segment is in the PNG but not in segments_info")

        monkeypatch.setattr(Recorder, "evaluate", refuse_truth_as_prediction)
    without_pixels = {"id": 77, "category_id": 0, "iscrowd": 0}
    tasks[0].truth_segments.append(without_pixels)  # counts as missed, and is no fault
    hotcoco_engine.count(tasks, CLASSES, 1)
    gone = next(s for s in tasks[5].truth_segments if 0 < s["id"] < 2**24 - 2)
    tasks[5].truth_segments.remove(gone)
    for count in (hotcoco_engine.count, evaluate_panoptic.evaluate_all):
        with pytest.raises(ValueError, match=rf"image 5': the true map holds .*\[{gone['id']}\]"):
            count(tasks, CLASSES, 1)


def test_a_refusal_is_explained_or_noted(tasks, recorder, monkeypatch, capsys):
    def refuse(self) -> None:
        raise RuntimeError("not today")

    monkeypatch.setattr(Recorder, "evaluate", refuse)
    sums = hotcoco_engine.count_or(evaluate_panoptic.evaluate_all, tasks, CLASSES, 1)[0]
    own = evaluate_panoptic.evaluate_all(tasks, CLASSES, 1)[0]
    np.testing.assert_array_equal(sums.iou, own.iou)
    assert capsys.readouterr().err == "note: evaluated without hotcoco, which refused: not today\n"
    Path(tasks[2].prediction_png).write_bytes(b"no PNG")
    with pytest.raises(ValueError, match=r"image 2': .*not a PNG"):
        hotcoco_engine.count_or(evaluate_panoptic.evaluate_all, tasks, CLASSES, 1)
    assert "note" not in capsys.readouterr().err


def files_of(paths) -> list[str]:
    """Options that name the truth as its own prediction."""
    folders = ["--truth-png", str(paths.panoptic_png), "--predictions-png", str(paths.panoptic_png)]
    json_file = str(paths.panoptic_json)
    return ["--truth", json_file, "--predictions", json_file, *folders]


def test_it_is_chosen_where_it_can_do_what_is_asked(recorder, coco_paths, capsys):
    arguments = files_of(coco_paths)

    def engine(*options: str) -> str:
        return evaluate_panoptic.parse_args([*arguments, *options]).engine

    assert engine() == engine("--engine", "hotcoco") == "hotcoco"
    assert engine("--engine", "own") == engine("--boundary-ratio", "0.02") == "own"
    with pytest.raises(SystemExit):
        engine("--engine", "hotcoco", "--boundary-ratio", "0.02")
    assert "--boundary-ratio" in capsys.readouterr().err


def test_without_it_the_own_engine_serves(coco_paths, monkeypatch, capsys):
    monkeypatch.setattr(hotcoco_engine.importlib.util, "find_spec", lambda name: None)
    arguments = files_of(coco_paths)
    assert evaluate_panoptic.parse_args(arguments).engine == "own"
    with pytest.raises(SystemExit):
        evaluate_panoptic.parse_args([*arguments, "--engine", "hotcoco"])
    assert "pip install hotcoco" in capsys.readouterr().err


# ------------------------------------------------------------------------ with hotcoco itself


@pytest.mark.parametrize("seed", range(12))
def test_its_sums_are_ours_to_the_last_digit(tmp_path, seed):
    pytest.importorskip("hotcoco")
    rng = np.random.default_rng(seed)
    images = [
        random_image(rng, 40, 56, 14, CLASSES, rng.choice([0.4, 0.9]), unlisted=0) for _ in range(6)
    ]
    for segment in (s for image in images for s in image[1]):
        segment["area"] = 3  # which panopticapi would believe
    sums = hotcoco_engine.count(write_tasks(tmp_path, images), CLASSES, 2)
    ours = statistics_of(images, CLASSES)
    for name in ("iou", "tp", "fp", "fn"):
        np.testing.assert_array_equal(getattr(sums, name), getattr(ours, name))


def test_the_program_writes_the_same_file_with_both(tasks, tmp_path, capsys):
    pytest.importorskip("hotcoco")
    categories = [{"id": k + 3, "name": f"{k}", "isthing": 1} for k in range(CLASSES)]
    for name, side in (("truth", 1), ("prediction", 3)):
        annotations = [
            {
                "image_id": task.image_id,
                "file_name": Path(task[side]).name,
                "segments_info": [
                    {**s, "category_id": s["category_id"] + 3} for s in task[side + 1]
                ],
            }
            for task in tasks
        ]
        content = {"annotations": annotations, "categories": categories}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    outputs = []
    for engine in ("own", "hotcoco"):
        output = tmp_path / f"{engine}.out"
        files = [f"--{n}{o}" for n in ("truth", "predictions") for o in ("", "-png")]
        values = [tmp_path / "truth.json", tmp_path, tmp_path / "prediction.json", tmp_path]
        options = [str(word) for pair in zip(files, values, strict=True) for word in pair]
        options += ["--engine", engine, "--output", str(output), "--workers", "1"]
        assert evaluate_panoptic.main(options) == 0
        outputs.append(output.read_text())
    assert outputs[0] == outputs[1] and capsys.readouterr().err == ""
