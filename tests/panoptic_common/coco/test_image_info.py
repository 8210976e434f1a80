"""Images without truth: what is read of an image-info JSON, and what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dataset_factory import CATEGORIES, make_coco_panoptic

from panoptic_common.coco.image_info import read_class_table, read_image_records


def write(path: Path, content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def test_records_are_those_of_the_annotated_set_without_their_truth(tmp_path):
    """COCO's own file has categories without "isthing" and further lists; neither matters."""
    paths = make_coco_panoptic(tmp_path)
    images = json.loads(Path(paths.panoptic_json).read_text())["images"]
    info = write(
        tmp_path / "info.json",
        {"images": images, "categories": [{"id": 1, "name": "person"}], "licenses": []},
    )
    records = read_image_records(paths.images, info)
    assert [record["image_id"] for record in records] == [100, 101, 102]
    assert records[0] == {
        "file_name": str(Path(paths.images) / "000000000100.jpg"),
        "image_id": 100,
        "height": 48,
        "width": 64,
    }
    assert [entry["name"] for entry in read_class_table(paths.panoptic_json)] == [
        *("person", "road", "car", "bus", "sky")
    ]
    with pytest.raises(ValueError, match=r"info\.json.*'isthing'.*trained on"):
        read_class_table(info)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: images.clear(), "'images' is empty"),
        (lambda images: images[1].pop("height"), "image 101: 'height' is None"),
        (lambda images: images[1].update(id=100), "image 100: the id occurs more than once"),
        (lambda images: images[1].update(file_name="000000000100.jpg"), "that of image 100 too"),
        (lambda images: images[1].update(file_name="./000000000100.jpg"), "that of image 100 too"),
        (lambda images: images[2].update(file_name="gone.jpg"), "1 images .* missing.*gone.jpg"),
        (lambda images: images.append(3), "no list 'images' of objects"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, message):
    paths = make_coco_panoptic(tmp_path)
    content = json.loads(Path(paths.panoptic_json).read_text())
    change(content["images"])
    info = write(tmp_path / "info.json", content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_image_records(paths.images, info)


def test_a_missing_file_is_named(tmp_path):
    for read in (lambda p: read_image_records(str(tmp_path), p), read_class_table):
        with pytest.raises(FileNotFoundError, match="no such file: .*nowhere.json"):
            read(str(tmp_path / "nowhere.json"))
    both = write(tmp_path / "c.json", {"categories": [*CATEGORIES, CATEGORIES[0]]})
    with pytest.raises(ValueError, match="c.json: category 7: the id occurs more than once"):
        read_class_table(both)
