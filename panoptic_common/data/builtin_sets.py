"""Names, places and classes of the data sets that are known without being registered.

The names of annotated sets, and all places, are Detectron2's. A test set has no truth: its classes
are those of Detectron2's own tables, which the panoptic JSON of the annotated splits repeat.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

# Below $DETECTRON2_DATASETS: images, JSON, PNGs, evaluator.
ANNOTATED = (
    {
        f"coco_2017_{split}_panoptic": (
            f"coco/{split}2017",
            f"coco/annotations/panoptic_{split}2017.json",
            f"coco/panoptic_{split}2017",
            "panoptic",
        )
        for split in ("train", "val")
    }
    | {
        f"cityscapes_fine_panoptic_{split}": (
            f"cityscapes/leftImg8bit/{split}",
            f"cityscapes/gtFine/cityscapes_panoptic_{split}.json",
            f"cityscapes/gtFine/cityscapes_panoptic_{split}",
            "cityscapes_panoptic",
        )
        for split in ("train", "val")
    }
    | {
        f"nuclei_{split}": (
            f"nuclei/{split}",
            f"nuclei/panoptic_{split}.json",
            f"nuclei/panoptic_{split}",
            "panoptic",
        )
        for split in ("train", "val")
    }
)

HINTS = {
    "coco": "COCO: unpack panoptic_annotations_trainval2017.zip and the PNG archives inside it; "
    "DETECTRON2_DATASETS names the folder above coco/",
    "cityscapes": "Cityscapes: `panoptic-prepare-cityscapes` makes the panoptic files; "
    "DETECTRON2_DATASETS names the folder above cityscapes/",
    "nuclei": "Nuclei: `panoptic-prepare-nuclei FOLDER --out .../nuclei` makes the panoptic "
    "files; DETECTRON2_DATASETS names the folder above nuclei/",
}


class TestSet(NamedTuple):
    """A set of images without truth.

    Attributes:
        images: folder of the images, below $DETECTRON2_DATASETS.
        info_json: file that lists them, likewise.
        categories: gives the categories, each with "id", "name", "isthing" and "color".
        submission: how the server wants files to be called; {} stands for the method's name.
        hint: one sentence for errors about missing files.
    """

    images: str
    info_json: str
    categories: Callable[[], list[dict[str, Any]]]
    submission: str
    hint: str


def coco_categories() -> list[dict[str, Any]]:
    """Return the 133 categories of COCO panoptic."""
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    return list(COCO_CATEGORIES)


def cityscapes_categories() -> list[dict[str, Any]]:
    """Return the 19 categories of Cityscapes' evaluation, with their original label ids."""
    from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES

    return list(CITYSCAPES_CATEGORIES)


def known_categories(name: str) -> list[dict[str, Any]] | None:
    """Return the categories of COCO's and Cityscapes' splits, without a look at any file.

    Args:
        name: of a data set; of any other one it is None.
    """
    if name.startswith("coco_2017_"):
        return coco_categories()
    return cityscapes_categories() if name.startswith("cityscapes_") else None


TEST_SETS = {
    # https://cocodataset.org/#upload
    "coco_2017_test-dev": TestSet(
        "coco/test2017",
        "coco/annotations/image_info_test-dev2017.json",
        coco_categories,
        "panoptic_test-dev2017_{}_results",
        "COCO: unpack test2017.zip and image_info_test2017.zip; DETECTRON2_DATASETS names the "
        "folder above coco/",
    ),
    "cityscapes_test": TestSet(
        "cityscapes/leftImg8bit/test",
        "cityscapes/image_info_test.json",
        cityscapes_categories,
        "{}",
        "Cityscapes: `panoptic-prepare-cityscapes --splits test` lists the test images; "
        "DETECTRON2_DATASETS names the folder above cityscapes/",
    ),
}
