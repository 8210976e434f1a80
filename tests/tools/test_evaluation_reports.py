"""tools/evaluate_panoptic.py --errors and --compare: tables, JSON, sheets, and wrong options."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation_outputs import perfect_output, run, shifted_output
from PIL import Image

from panoptic_common.coco.errors import KINDS
from panoptic_common.evaluation.panoptic import PanopticEvaluator
from panoptic_tools import error_report, evaluate_panoptic


@pytest.fixture
def arguments(tiny_dataset, coco_paths, tmp_path) -> list[str]:
    """Options that evaluate a prediction that is shifted, with one class wrong in each image."""
    run(PanopticEvaluator(tiny_dataset, tmp_path / "shifted"), tiny_dataset, shifted_output)
    prediction = tmp_path / "shifted" / "predictions.json"
    return ["--truth", coco_paths.panoptic_json, "--predictions", str(prediction), "--workers", "1"]


@pytest.fixture
def perfect(tiny_dataset, tmp_path) -> str:
    run(PanopticEvaluator(tiny_dataset, tmp_path / "perfect"), tiny_dataset, perfect_output)
    return str(tmp_path / "perfect" / "predictions.json")


def test_errors_are_written_and_sum_to_what_is_missing(arguments, coco_paths, tmp_path, capsys):
    figures, folder = tmp_path / "figures.json", tmp_path / "errors"
    options = ["--errors", str(folder), "--images", coco_paths.images, "--worst", "2"]
    assert evaluate_panoptic.main([*arguments, *options, "--output", str(figures)]) == 0
    printed = capsys.readouterr().out
    plain = tmp_path / "plain.json"
    assert evaluate_panoptic.main([*arguments, "--engine", "own", "--output", str(plain)]) == 0
    assert json.loads(figures.read_text()) == json.loads(plain.read_text())

    pq = json.loads(plain.read_text())["PQ"]
    content = json.loads((folder / "errors.json").read_text())
    for name, row in content["classes"].items():
        if pq[name]["PQ"] is None:
            assert row["PQ"] is None
            continue
        assert row["PQ"] == pytest.approx(pq[name]["PQ"], abs=1e-9)
        assert sum(row[kind] for kind in KINDS) == pytest.approx(100 - row["PQ"], abs=1e-9)
    lost = 100 - pq["All"]["PQ"]
    assert sum(row["points"] for row in content["kinds"].values()) == pytest.approx(lost)
    for name, row in content["classes"].items():
        if row["PQ"] is not None:
            parts = [sum(by_kind.values()) for by_kind in content["areas"][name].values()]
            assert len(parts) == 3 and sum(parts) == pytest.approx(100 - row["PQ"], abs=1e-9)
    assert sum(sum(i["points"].values()) for i in content["images"]) == pytest.approx(lost)
    assert content["kinds"]["wrong class"]["points"] > 0
    wrong = [e for i in content["images"] for e in i["errors"] if e["kind"] == "wrong class"]
    categories = {
        c["id"] for c in json.loads(Path(coco_paths.panoptic_json).read_text())["categories"]
    }
    assert wrong and all(e["category_id"] in categories and e["loss"] == 0.5 for e in wrong)

    text = (folder / "errors.md").read_text()
    assert text in printed and f"{lost:.2f} points of PQ are lost, 3 images" in text
    sheets = sorted(path.name for path in (folder / "worst").iterdir())
    assert [name[:4] for name in sheets] == ["001_", "002_"]
    with Image.open(folder / "worst" / sheets[0]) as sheet:
        assert sheet.width == 3 * 640 + 4 * 6
    costs = {i["image_id"]: sum(i["points"].values()) for i in content["images"]}
    worst = max(costs, key=lambda image_id: costs[image_id])
    assert str(worst) in sheets[0]


def test_workers_and_missing_images_change_no_figure(arguments, tmp_path):
    texts = []
    for number in ("1", "2"):
        folder = tmp_path / f"errors{number}"
        options = ["--errors", str(folder), "--worst", "1", "--areas", "--workers", number]
        assert evaluate_panoptic.main([*arguments, *options]) == 0
        texts.append((folder / "errors.json").read_text())
        with Image.open(next((folder / "worst").iterdir())) as sheet:
            assert np.asarray(sheet).std() > 5
    assert texts[0] == texts[1] and '"any"' in texts[0]


def test_two_predictions_are_compared(arguments, perfect, tmp_path, capsys):
    folder = tmp_path / "errors"
    options = ["--compare", perfect, "--errors", str(folder), "--worst", "2"]
    assert evaluate_panoptic.main([*arguments, *options]) == 0
    content = json.loads((folder / "comparison.json").read_text())
    assert content["PQ"]["compared with"] == pytest.approx(100)
    assert (
        content["PQ"]["difference"] == content["PQ"]["prediction"] - content["PQ"]["compared with"]
    )
    # Three images, each worse: 2 / 2^3.
    assert content["sign test"] == {"better": 0, "worse": 3, "p": 0.25}
    assert (
        content["interval"]["low"] <= content["PQ"]["difference"] <= content["interval"]["high"] < 0
    )
    assert {i["compared with"] for i in content["images"]} == {100}
    assert len(list((folder / "losses").iterdir())) == 2 and not list((folder / "gains").iterdir())
    printed = capsys.readouterr().out
    assert (folder / "comparison.md").read_text() in printed
    assert "Largest losses" in printed and "Largest gains" not in printed

    # Without a folder the same is printed, and nothing is written; the other way round, it gains.
    before = sorted(tmp_path.rglob("*"))
    swapped = [*arguments[:2], "--predictions", perfect, "--compare", arguments[3]]
    assert evaluate_panoptic.main([*swapped, "--workers", "1"]) == 0
    assert "better on 3 images, worse on 0" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_perfect_prediction_has_no_sheets(coco_paths, perfect, tmp_path):
    folder = tmp_path / "errors"
    options = ["--truth", coco_paths.panoptic_json, "--predictions", perfect, "--workers", "1"]
    assert evaluate_panoptic.main([*options, "--errors", str(folder)]) == 0
    assert list((folder / "worst").iterdir()) == []
    assert "points of PQ are lost" in (folder / "errors.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "."], "with --errors"),
        (["--errors", "new", "--images", "nowhere"], "there is no folder nowhere"),
        (["--errors", "."], "no new or empty folder"),
        (["--errors", "file/new"], "is a file, no folder"),
        (["--errors", "new", "--boundary-ratio", "0.02"], "not boundary PQ"),
        (["--errors", "new", "--worst", "-1"], "--worst must be at least 0"),
        (["--errors", "new", "--areas", "9", "4"], "ascend"),
        (["--compare", "no.json"], "there is no file no.json"),
        (["--compare-png", "."], "--compare JSON"),
        (["--engine", "hotcoco", "--errors", "new"], "cannot do what --errors"),
    ],
)
def test_wrong_options_end_with_status_2(
    arguments, tmp_path, monkeypatch, capsys, options, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        evaluate_panoptic.main([*arguments, *options])
    error = capsys.readouterr().err
    assert end.value.code == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_wrong_files_are_named(arguments, perfect, coco_paths, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    options = ["--errors", str(tmp_path / "errors"), "--images", str(empty)]
    assert evaluate_panoptic.main([*arguments, *options]) == 1
    assert "no file for image 100" in capsys.readouterr().err
    assert not (tmp_path / "errors").exists()  # said before anything is evaluated
    content = json.loads(Path(perfect).read_text())
    content["annotations"].pop(0)
    Path(perfect).write_text(json.dumps(content))
    assert evaluate_panoptic.main([*arguments, "--compare", perfect]) == 1
    error = capsys.readouterr().err
    assert f"{perfect}: no prediction for image 100" in error and error.count("\n") == 1


def _shrink(path: Path) -> None:
    Image.new("RGB", (30, 20)).save(path)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize("change", [_shrink, _cut, lambda path: path.write_bytes(b"no image")])
@pytest.mark.parametrize("folder", ["new/errors", "old"])
def test_a_wrong_image_leaves_no_part_of_a_report(
    arguments, perfect, coco_paths, tmp_path, capsys, change, folder
):
    """So that the same command is accepted when the image has been corrected."""
    (tmp_path / "old").mkdir()
    image = sorted(Path(coco_paths.images).rglob("*.*"))[0]
    whole = image.read_bytes()
    change(image)
    options = ["--errors", str(tmp_path / folder), "--images", coco_paths.images]
    words = [*arguments, *options, "--compare", perfect]
    assert evaluate_panoptic.main(words) == 1
    error = capsys.readouterr().err
    assert str(image) in error and error.splitlines()[-1].startswith("evaluate_panoptic.py")
    assert list(tmp_path.joinpath(folder).rglob("*")) == [] and (tmp_path / "old").exists()
    image.write_bytes(whole)
    assert evaluate_panoptic.main(words) == 0
    made = sorted(path.name for path in (tmp_path / folder).iterdir())
    pages = ["comparison.json", "comparison.md", "errors.json", "errors.md"]
    assert made == sorted([*pages, "gains", "losses", "worst"])


def test_images_of_another_size_are_found_before_the_work(
    arguments, coco_paths, tmp_path, monkeypatch, capsys
):
    _shrink(sorted(Path(coco_paths.images).rglob("*.*"))[-1])
    monkeypatch.setattr(error_report, "examine", None)
    options = ["--errors", str(tmp_path / "errors"), "--images", coco_paths.images]
    assert evaluate_panoptic.main([*arguments, *options]) == 1
    assert "has 20 x 30 (height x width), expected are 48 x 64" in capsys.readouterr().err


def _change_json(path: str, change) -> None:
    content = json.loads(Path(path).read_text())
    change(content)
    Path(path).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][0].update(id=[1]), "no list 'images' with id and file_name"),
        (
            lambda c: c["images"].append(dict(c["images"][0])),
            "image 100 is listed twice",
        ),
        (
            lambda c: c["images"][1].update(file_name=c["images"][0]["file_name"]),
            "of image 101 is that of 100 too",
        ),
    ],
)
def test_a_list_of_images_that_misleads_is_refused(
    arguments, coco_paths, tmp_path, capsys, change, message
):
    _change_json(coco_paths.panoptic_json, change)
    options = ["--errors", str(tmp_path / "errors"), "--images", coco_paths.images]
    assert evaluate_panoptic.main([*arguments, *options]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "errors").exists()


def test_a_number_and_a_text_that_look_alike_are_two_images(arguments, coco_paths, tmp_path):
    for file in (coco_paths.panoptic_json, arguments[3]):
        _change_json(file, lambda c: c["annotations"][1].update(image_id="100"))
    folder = tmp_path / "errors"
    assert evaluate_panoptic.main([*arguments, "--errors", str(folder)]) == 0
    rows = (folder / "errors.md").read_text().partition("cost most")[2].splitlines()
    assert sorted(row.split()[1] for row in rows if row.startswith("| 1")) == ["100", "100", "102"]


def test_the_longest_names_of_pngs_have_sheets(arguments, coco_paths, tmp_path):
    long = f"{'a' * 125}{chr(233) * 60}.png"
    folder = Path(coco_paths.panoptic_png)
    (folder / "000000000101.png").rename(folder / long)
    _change_json(coco_paths.panoptic_json, lambda c: c["annotations"][1].update(file_name=long))
    assert evaluate_panoptic.main([*arguments, "--errors", str(tmp_path / "errors")]) == 0
    names = [path.name for path in (tmp_path / "errors" / "worst").iterdir()]
    assert len(names) == 3 and any("aaaaa" in name and name.endswith(".png") for name in names)
