"""From a class table to what Detectron2 calls the metadata of a data set."""

from __future__ import annotations

from typing import Any

from detectron2.data.catalog import Metadata


def class_metadata(name: str, table: list[dict[str, Any]]) -> dict[str, Any]:
    """Derive metadata in Detectron2's form from a class table.

    Some of its panoptic data sets have one table, such as `coco_2017_val_panoptic`. Names of their
    segments are looked up by contiguous id, in a list of things or of stuff: both hold all classes.
    Detections are numbered among the things alone: "things" is a metadata of these.

    Args:
        name: of the data set.
        table: K entries in contiguous order.
    """
    names = [entry["name"] for entry in table]
    colours = [list(entry.get("color", (128, 128, 128))) for entry in table]
    contiguous: dict[int, dict[int, int]] = {0: {}, 1: {}}
    for position, entry in enumerate(table):
        contiguous[int(entry["isthing"])][entry["id"]] = position
    positions = list(contiguous[1].values())
    things = Metadata(name=f"{name}_things").set(
        thing_classes=[names[k] for k in positions],
        thing_colors=[colours[k] for k in positions],
        thing_dataset_id_to_contiguous_id={key: k for k, key in enumerate(contiguous[1])},
    )
    return {
        "class_table": table,
        "thing_classes": names,
        "stuff_classes": names,
        "thing_colors": colours,
        "stuff_colors": colours,
        "thing_dataset_id_to_contiguous_id": contiguous[1],
        "stuff_dataset_id_to_contiguous_id": contiguous[0],
        "things": things,
    }
