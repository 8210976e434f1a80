"""tools/label_images.py: to the programs of others and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panoptic_common.coco.instance_masks import number_instances
from panoptic_common.coco.segment_ids import read_id_map, write_id_map
from panoptic_tools import evaluate_panoptic, label_images, prepare_nuclei

CATEGORIES = [
    {"id": 7, "name": "background", "isthing": 0, "color": [40, 40, 60]},
    {"id": 3, "name": "nucleus", "isthing": 1, "color": [230, 120, 60]},
]


def _map() -> np.ndarray:
    """A background (9) and two nuclei (70000, 5) that touch; a strip of void."""
    id_map = np.full((20, 30), 9, np.int32)
    id_map[2:9, 3:10] = 70000
    id_map[2:9, 10:15] = 5
    id_map[-1] = 0
    return id_map


def _data_set(root: Path, names: tuple[str, ...] = ("a.png", "b.png")) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "truth").mkdir()
    images, annotations = [], []
    for number, name in enumerate(names, start=11):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30)).astype(np.uint8)
        (root / "images" / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / "images" / name)
        png = f"{number}.png"
        write_id_map(root / "truth" / png, _map())
        segments = [
            {"id": i, "category_id": c, "area": int((_map() == i).sum()), "iscrowd": 0}
            for i, c in ((9, 7), (70000, 3), (5, 3))
        ]
        annotations.append({"image_id": number, "file_name": png, "segments_info": segments})
        images.append({"id": number, "file_name": name, "height": 20, "width": 30})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / "truth.json").write_text(json.dumps(content))
    return root / "truth.json"


@pytest.mark.parametrize("layout", ["suffixes", "pairs"])
def test_what_is_written_is_read_as_the_truth(tmp_path: Path, layout: str) -> None:
    """Written, taken for a program's result, read and evaluated: PQ 100 of both classes."""
    truth = _data_set(tmp_path)
    folder = tmp_path / "others"
    words = ["write", str(truth), str(folder), "--images", str(tmp_path / "images")]
    assert label_images.main([*words, "--layout", layout]) == 0
    place = folder / ("masks/a.png" if layout == "pairs" else "a_masks.png")
    # In the order of the JSON: 70000 is 1, 5 is 2; background and void are 0.
    expected = np.zeros((20, 30), int)
    expected[2:9, 3:10], expected[2:9, 10:15] = 1, 2
    assert (np.asarray(Image.open(place)) == expected).all()
    out, report = tmp_path / "predictions.json", tmp_path / "report.json"
    assert label_images.main(["read", str(truth), str(folder), "--out", str(out)]) == 0
    words = ["--truth", str(truth), "--predictions", str(out), "--output", str(report)]
    assert evaluate_panoptic.main(words) == 0
    assert json.loads(report.read_text())["PQ"]["All"]["PQ"] == 100.0
    # Background and two nuclei, all with ids of the label image's order.
    assert sorted(np.unique(read_id_map(tmp_path / "predictions" / "a.png"))) == [1, 2, 3]


def test_prepare_nuclei_makes_the_data_set_again(tmp_path: Path) -> None:
    truth = _data_set(tmp_path)
    folder = tmp_path / "others"
    words = ["write", str(truth), str(folder), "--images", str(tmp_path / "images")]
    assert label_images.main(words) == 0
    out = tmp_path / "again"
    assert prepare_nuclei.main([str(folder), "--out", str(out), "--val-share", "0"]) == 0
    again = read_id_map(out / "panoptic_train" / "a.png")
    nuclei = _map() * np.isin(_map(), (5, 70000))
    # A map of one id to one other, and back.
    pairs = np.unique(np.stack([nuclei.ravel(), again.ravel()]), axis=1)
    assert pairs.shape == (2, 3)


def test_the_rest_may_be_void_and_a_program_s_ending_goes_first(tmp_path: Path) -> None:
    truth = _data_set(tmp_path, ("a.png",))
    folder = tmp_path / "found"
    folder.mkdir()
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(folder / "a_masks.png")
    labels = np.zeros((20, 30), np.uint16)
    labels[4, 4] = 40000
    Image.fromarray(labels).save(folder / "a_cp_masks.png")
    out = tmp_path / "predictions.json"
    words = ["read", str(truth), str(folder), "--out", str(out), "--rest", ""]
    assert label_images.main(words) == 0
    id_map = read_id_map(tmp_path / "predictions" / "a.png")
    assert id_map[4, 4] == 2 and id_map.sum() == 2
    (annotation,) = json.loads(out.read_text())["annotations"]
    assert annotation["image_id"] == 11
    assert [(s["category_id"], s["area"]) for s in annotation["segments_info"]] == [(3, 1)]


def test_bad_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = _data_set(tmp_path, ("a.png", "more/a.png"))
    others, images = str(tmp_path / "others"), str(tmp_path / "images")
    trials = {
        "would have the same label image": ["write", str(truth), others, "--images", images],
        "the thing classes are nucleus": ["read", str(truth), images, "--thing", "cell"],
        "the stuff classes are background": ["read", str(truth), images, "--rest", "sky"],
        "holds no label image of a.png": ["read", str(truth), images],
    }
    for sentence, words in trials.items():
        if words[0] == "read":
            words = [*words, "--out", str(tmp_path / "p.json")]
        assert label_images.main(words) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1, error


def test_more_instances_than_16_bits_can_number_are_refused() -> None:
    with pytest.raises(ValueError, match="65536 instances"):
        number_instances(np.zeros((1, 1), np.int32), range(2**16))
