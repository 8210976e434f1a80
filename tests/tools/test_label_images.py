"""tools/label_images.py: to the programs of others and back."""

from __future__ import annotations

import json
from collections.abc import Callable
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


def _change(truth: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(truth.read_text())
    change(content)
    truth.write_text(json.dumps(content))


def _words(command: str, root: Path, out: str = "predictions.json") -> list[str]:
    words = [command, str(root / "truth.json"), str(root / "others")]
    if command == "read":
        return [*words, "--out", str(root / out)]
    return [*words, "--images", str(root / "images")]


def _refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run the program, which refuses; return its sentence."""
    try:
        status = label_images.main(words)
    except SystemExit as end:
        status = end.code
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1 and "Traceback" not in error, error
    return error


@pytest.mark.parametrize("command", ["write", "read"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c["annotations"][0].pop("segments_info"), "'segments_info' is missing"),
        (lambda c: c["annotations"][0].pop("image_id"), "'image_id' is missing"),
        (lambda c: c["annotations"][0].update(image_id=[11]), "'image_id' is [11]"),
        (lambda c: c["annotations"][0].update(image_id=99), "annotated, but not in images[]"),
        (lambda c: c["annotations"][0].pop("file_name"), "'file_name' (of the panoptic PNG)"),
        (lambda c: c["annotations"][0]["segments_info"][1].pop("category_id"), "category None is"),
        (lambda c: c["annotations"][0]["segments_info"].append(7), "not an object"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "annotated more than once"),
        (lambda c: c["images"][0].pop("height"), "'height' is None, no positive integer"),
        (lambda c: c["images"][0].update(width="30"), "'width' is '30'"),
        (lambda c: c["images"][0].pop("id"), "'id' is missing"),
        (lambda c: c["images"][0].update(file_name=None), "'file_name' is missing"),
        (lambda c: c.update(annotations=["x"]), "annotations[0] is 'x', but must be an object"),
        (lambda c: c.update(images=[None]), "images[0] is None, but must be an object"),
        (lambda c: c.update(categories=["x"]), "categories[0] is 'x', but must be an object"),
        (lambda c: c.pop("images"), "there is no list 'images'"),
    ],
)
def test_a_wrong_data_set_is_one_sentence(tmp_path, capsys, command, change, sentence) -> None:
    truth = _data_set(tmp_path)
    (tmp_path / "others").mkdir()
    _change(truth, change)
    error = _refused(_words(command, tmp_path), capsys)
    assert sentence in error and str(truth) in error
    assert list((tmp_path / "others").iterdir()) == []


def test_sizes_as_floats_are_taken(tmp_path: Path) -> None:
    """As pandas writes them, and as the check accepts them."""
    truth = _data_set(tmp_path)
    _change(truth, lambda c: [image.update(height=20.0, width=30.0) for image in c["images"]])
    assert label_images.main(_words("write", tmp_path)) == 0
    assert label_images.main(_words("read", tmp_path)) == 0


def _smaller_image(root: Path) -> None:
    Image.new("L", (15, 10)).save(root / "images" / "b.png")


def _smaller_png(root: Path) -> None:
    write_id_map(root / "truth" / "12.png", _map()[:10])


def _unlisted(root: Path) -> None:
    _change(root / "truth.json", lambda c: c["annotations"][1]["segments_info"].pop())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_smaller_image, "b.png: the image is 10 x 15 (height x width), but the JSON gives image"),
        (_smaller_png, "12.png is 10 x 30 (height x width), but its image"),
        (_unlisted, "12.png: ids [5] (1 in all) are not in segments_info of image 12"),
    ],
)
def test_files_that_do_not_fit_are_not_written(tmp_path, capsys, change, sentence) -> None:
    """As in training; what is not listed would become background."""
    _data_set(tmp_path)
    change(tmp_path)
    assert sentence in _refused(_words("write", tmp_path), capsys)
    assert not (tmp_path / "others" / "b_masks.png").exists()


def test_images_that_would_share_a_file_are_refused(tmp_path, capsys) -> None:
    """Of one name in two folders, or an image that is called as another one's label image."""
    _data_set(tmp_path / "folders", ("s0/c.png", "s1/c.png"))
    (tmp_path / "folders" / "others").mkdir()
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "folders/others/c_masks.png")
    for command in ("write", "read"):
        said = _refused(_words(command, tmp_path / "folders"), capsys)
        assert "s0/c.png and " in said and "would have the same label image, c" in said
    _data_set(tmp_path / "masks", ("a.png", "a_masks.png"))
    said = _refused(_words("write", tmp_path / "masks"), capsys)
    assert "a.png and " in said and "would have the same label image, a_masks.png" in said


def test_the_truth_and_the_images_are_not_overwritten(tmp_path, capsys) -> None:
    """By their own names, through a link, or as the folder of PNGs that goes with a JSON."""
    truth = _data_set(tmp_path)
    assert label_images.main(_words("write", tmp_path)) == 0
    (tmp_path / "link.json").symlink_to(truth)
    _change(truth, lambda c: c["annotations"][0].update(file_name="a.png"))
    write_id_map(tmp_path / "truth" / "a.png", _map())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    for out in ("truth.json", "truth.JSON", "others/../truth.json", "link.json", "others.json"):
        assert "--out" in _refused(_words("read", tmp_path, out), capsys)
    assert "end it with .json" in _refused(_words("read", tmp_path, "predictions"), capsys)
    # The folder of the PNGs is that of the images, which `read` does not know.
    assert "holds a.png already" in _refused(_words("read", tmp_path, "images.json"), capsys)
    for folder in ("images", "truth"):
        words = ["write", str(truth), str(tmp_path / folder), "--images", str(tmp_path / "images")]
        assert "would replace what --" in _refused(words, capsys)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    assert after == before


def test_wrong_labels_leave_nothing_and_a_second_run_replaces_the_first(tmp_path, capsys) -> None:
    _data_set(tmp_path)
    assert label_images.main(_words("write", tmp_path)) == 0
    labels = tmp_path / "others" / "b_masks.png"
    whole = labels.read_bytes()
    Image.new("L", (3, 3)).save(labels)
    assert "b_masks.png" in _refused(_words("read", tmp_path), capsys)
    assert not list(tmp_path.glob("pred*")) and not list(tmp_path.glob(".*"))
    labels.write_bytes(whole)
    for _ in range(2):
        assert label_images.main(_words("read", tmp_path)) == 0
    assert len(list((tmp_path / "predictions").iterdir())) == 2


def test_more_instances_than_16_bits_can_number_are_refused() -> None:
    with pytest.raises(ValueError, match="65536 instances"):
        number_instances(np.zeros((1, 1), np.int32), range(2**16))
