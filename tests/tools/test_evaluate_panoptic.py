"""tools/evaluate_panoptic.py, and the benchmark of PQ, on the files of an evaluation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from evaluation_outputs import perfect_output, run, shifted_output
from PIL import Image
from programs import read_strictly

from panoptic_common.coco.segment_ids import read_id_map, write_id_map
from panoptic_common.evaluation.panoptic import PanopticEvaluator
from panoptic_tools import evaluate_panoptic
from panoptic_tools.studies import benchmark_quality


@pytest.mark.parametrize("workers", ["1", "2"])
def test_tool_scores_the_files_of_an_evaluation(
    tiny_dataset, coco_paths, tmp_path, capsys, workers
):
    results = run(PanopticEvaluator(tiny_dataset, tmp_path), tiny_dataset, shifted_output)[
        "panoptic_seg"
    ]
    arguments = [
        "--truth",
        coco_paths.panoptic_json,
        "--predictions",
        str(tmp_path / "predictions.json"),
    ]
    output = str(tmp_path / "figures.json")
    options = ["--workers", workers, "--boundary-ratio", "0.02", "--output", output]
    assert evaluate_panoptic.main(arguments + options) == 0
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
    assert evaluate_panoptic.main(arguments) == 1
    assert f"no prediction for image {removed['image_id']}" in capsys.readouterr().err


def test_tool_names_the_wrong_image(tiny_dataset, coco_paths, tmp_path, capsys):
    run(PanopticEvaluator(tiny_dataset, tmp_path), tiny_dataset, perfect_output)
    write_id_map(tmp_path / "predictions" / "000000000101.png", np.full((48, 64), 9, np.int32))
    arguments = [
        "--truth",
        coco_paths.panoptic_json,
        "--predictions",
        str(tmp_path / "predictions.json"),
    ]
    assert evaluate_panoptic.main([*arguments, "--workers", "1"]) == 1
    assert "image 101: the predicted map holds the segment ids [9]" in capsys.readouterr().err


def test_benchmark_runs_and_compares(capsys):
    assert benchmark_quality.main(["--sizes", "40x50", "--images", "2", "--repeats", "1"]) == 0
    assert "40x50" in capsys.readouterr().out


def _doubled(content: dict) -> None:
    content["annotations"].append(content["annotations"][0])


def _exchanged(content: dict) -> None:
    """The numbers of two images are exchanged, as by a program that counts in another order."""
    first, second = content["annotations"][:2]
    first["image_id"], second["image_id"] = second["image_id"], first["image_id"]


def _one_png(content: dict) -> None:
    content["annotations"][1]["file_name"] = content["annotations"][0]["file_name"]


def _as_text(content: dict) -> None:
    content["annotations"][0]["image_id"] = str(content["annotations"][0]["image_id"])


def _rename_classes(content: dict) -> None:
    """Two classes exchange their names, as where a program counts classes in its own order."""
    first, second = content["categories"][:2]
    first["name"], second["name"] = second["name"], first["name"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _rename_classes,
            "category 1 is 'road' there, which is category 4 of the truth: give both files",
        ),
        (
            lambda c: c["annotations"][0].update(image_id=100.0),
            "has no image_id that is a whole number or a text: 100.0",
        ),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(category_id=True),
            "a segment has no number 'category_id' that is whole: True",
        ),
        (_doubled, "annotations[3] (image 100): the image is listed twice"),
        (
            _exchanged,
            "image_id an entry is of image 101, by its file_name 000000000100.png of image",
        ),
        (_one_png, "(image 101): its PNG 000000000100.png is that of image 100 too"),
        (
            lambda c: c["annotations"][1].update(file_name="./x/../000000000100.png"),
            "(image 101): its PNG ./x/../000000000100.png is that of image 100 too",
        ),
        (
            lambda c: c["annotations"].insert(0, None),
            "annotations[0] is None, but must be",
        ),
        (lambda c: c["annotations"][0]["segments_info"].append(None), "a segment has no number"),
        (
            lambda c: c["annotations"][0]["segments_info"].append(
                c["annotations"][0]["segments_info"][0]
            ),
            "image 100: segment 3 of the prediction is listed twice",
        ),
        (_as_text, "no prediction for image 100 (there is '100': a text is no number)"),
        (lambda c: c["annotations"][1].pop("image_id"), "annotations[1] has no image_id"),
        (lambda c: c["annotations"][1].pop("file_name"), "(image 101) has no file_name"),
        (lambda c: c["annotations"][1].update(file_name=None), "(image 101) has no file_name"),
        (lambda c: c["annotations"][1].update(segments_info=None), "no list segments_info"),
        (
            lambda c: c["annotations"][1]["segments_info"][0].pop("category_id"),
            "(image 101): a segment has no number 'category_id'",
        ),
        (lambda c: c.pop("annotations"), "there is no list 'annotations'"),
    ],
)
def test_incomplete_predictions_are_named(
    tiny_dataset, coco_paths, tmp_path, capsys, change, message
):
    run(PanopticEvaluator(tiny_dataset, tmp_path), tiny_dataset, perfect_output)
    path = tmp_path / "predictions.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    arguments = ["--truth", str(coco_paths.panoptic_json), "--predictions", str(path)]
    assert evaluate_panoptic.main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert str(path) in error or "of the prediction" in error


def _two_skies(content: dict) -> None:
    """A stuff class has two segments in an image, which training refuses."""
    stuff = {c["id"] for c in content["categories"] if not c["isthing"]}
    segments = content["annotations"][0]["segments_info"]
    first = next(segment for segment in segments if segment["category_id"] in stuff)
    segments.append({**first, "id": 99})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"].clear(), "no image is annotated"),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(iscrowd="0"),
            "(image 100): segment 3 has iscrowd '0', neither 0 nor 1",
        ),
        (
            lambda c: c.update(categories=["sky"]),
            "categories[0] is 'sky', but must be an object",
        ),
        (
            lambda c: c["categories"].append([1]),
            "is [1], but must be an object",
        ),
        (_two_skies, "image 100, segment 99: second segment of stuff category"),
    ],
)
def test_a_truth_that_says_nothing_or_nonsense_is_refused(coco_paths, capsys, change, message):
    """Figures over no image, and a text "0" that Python takes for true, would look like results."""
    path = Path(coco_paths.panoptic_json)
    predictions = path.with_name("predictions.json")
    predictions.write_text(path.read_text())
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    words = ["--truth", str(path), "--predictions", str(predictions)]
    assert evaluate_panoptic.main([*words, "--predictions-png", coco_paths.panoptic_png]) == 1
    said = capsys.readouterr().err
    assert message in said and str(path) in said and said.count("\n") == 1


def _exchange_colours(path: Path) -> None:
    """Red and blue are exchanged, as OpenCV writes an RGB array."""
    Image.fromarray(np.asarray(Image.open(path))[:, :, ::-1].copy()).save(path)


def _blacken(path: Path) -> None:
    write_id_map(path, np.zeros((48, 64), np.int32))


def _change_one(path: Path) -> None:
    """A single pixel of one image has an id that is not listed."""
    if path.name == "000000000101.png":
        ids = read_id_map(path)
        ids[0, 0] = 4242
        write_id_map(path, ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_exchange_colours, "image 100: the true map holds the segment ids ["),
        (_change_one, "image 101: the true map holds the segment ids [4242] (1 in all), which its"),
        (_blacken, "not one pixel of the truth belongs to a segment, as in all 3 of its PNGs"),
    ],
)
@pytest.mark.parametrize("options", [["--engine", "own"], ["--engine", "auto"], ["--errors", "e"]])
def test_a_truth_whose_pngs_do_not_fit_its_json_is_refused(
    tiny_dataset, coco_paths, tmp_path, monkeypatch, capsys, change, message, options
):
    """As in training; any prediction would have a PQ that looks like a result."""
    monkeypatch.chdir(tmp_path)
    run(PanopticEvaluator(tiny_dataset, tmp_path), tiny_dataset, perfect_output)
    for path in Path(coco_paths.panoptic_png).iterdir():
        change(path)
    words = ["--truth", coco_paths.panoptic_json, "--predictions", "predictions.json"]
    assert evaluate_panoptic.main([*words, "--workers", "1", *options]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "e").exists()


def test_a_true_segment_without_pixels_counts_as_missed(tiny_dataset, coco_paths, tmp_path, capsys):
    """As panopticapi has it (docs/howto/data_faults.md)."""
    run(PanopticEvaluator(tiny_dataset, tmp_path), tiny_dataset, perfect_output)
    path = Path(coco_paths.panoptic_json)
    content = json.loads(path.read_text())
    car = next(c["id"] for c in content["categories"] if c["name"] == "car")
    content["annotations"][0]["segments_info"].append({"id": 4242, "category_id": car})
    path.write_text(json.dumps(content))
    words = ["--truth", str(path), "--predictions", str(tmp_path / "predictions.json")]
    output = tmp_path / "figures.json"
    assert evaluate_panoptic.main([*words, "--workers", "1", "--output", str(output)]) == 0
    # Three images with two cars each are found, one is missed: 6 / (6 + 1/2).
    figures = json.loads(output.read_text())["PQ"]
    assert figures["class car"]["PQ"] == pytest.approx(100 * 6 / 6.5)
    assert capsys.readouterr().err == ""


def test_other_names_for_classes_are_no_contradiction(tiny_dataset, coco_paths, tmp_path, capsys):
    run(PanopticEvaluator(tiny_dataset, tmp_path), tiny_dataset, perfect_output)
    path = tmp_path / "predictions.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": 1, "name": "human"}, {"id": 99, "name": "sky"}, None]
    path.write_text(json.dumps(content))
    arguments = ["--truth", str(coco_paths.panoptic_json), "--predictions", str(path)]
    assert evaluate_panoptic.main([*arguments, "--workers", "1"]) == 0


def test_a_byte_order_mark_is_read_and_results_are_json(tiny_dataset, coco_paths, tmp_path):
    run(PanopticEvaluator(tiny_dataset, tmp_path), tiny_dataset, perfect_output)
    path, output = tmp_path / "predictions.json", tmp_path / "figures.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    arguments = ["--truth", str(coco_paths.panoptic_json), "--predictions", str(path)]
    assert evaluate_panoptic.main([*arguments, "--workers", "1", "--output", str(output)]) == 0
    assert read_strictly(output.read_text())["PQ"]["All"]["PQ"] == 100


def test_what_cannot_be_read_or_written_is_said_first(coco_paths, tmp_path, capsys):
    truth = str(coco_paths.panoptic_json)
    alone = str(tmp_path / "alone.json")
    shutil.copyfile(truth, alone)
    for words, sentence in (
        (["--truth", truth, "--output", f"{tmp_path}/no/out.json"], "its folder does not exist"),
        (["--truth", str(tmp_path)], f"{tmp_path}: is a folder, no regular file"),
        (["--truth", "no.json"], "there is no file no.json"),
        (["--truth", alone], f"there is no folder {tmp_path}/alone: name that of the PNGs by"),
        (["--truth", truth, "--boundary-ratio", "2"], "--boundary-ratio lies between 0 and 1"),
        (["--truth", truth, "--workers", "0"], "--workers must be at least 1"),
    ):
        with pytest.raises(SystemExit) as error:
            evaluate_panoptic.main(["--predictions", truth, *words])
        assert error.value.code == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1


def test_names_of_pngs_are_free_and_further_images_are_noted(
    tiny_dataset, coco_paths, tmp_path, capsys
):
    """Predictions of more images than the truth has, in PNGs called otherwise."""
    run(PanopticEvaluator(tiny_dataset, tmp_path), tiny_dataset, perfect_output)
    path = tmp_path / "predictions.json"
    content = json.loads(path.read_text())
    for entry in content["annotations"]:
        name = f"mine_{entry['file_name']}"
        (tmp_path / "predictions" / entry["file_name"]).rename(tmp_path / "predictions" / name)
        entry["file_name"] = name
    content["annotations"].append({**content["annotations"][0], "image_id": 9, "file_name": "x"})
    path.write_text(json.dumps(content))
    arguments = ["--truth", coco_paths.panoptic_json, "--predictions", str(path), "--workers", "1"]
    assert evaluate_panoptic.main(arguments) == 0
    said = capsys.readouterr()
    assert "note: 1 predictions are of images without truth" in said.err
    assert "| All          | 100.00" in said.out
