"""Class counts of a config, from the class tables of its data sets.

A wrong number of classes is the most common way to lose a day. It shows as a CUDA assertion, or as
a PQ of zero after training. Here every class count may stay -1 and is filled from the class table
of the training set. A count that is given must agree with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode as CN

from panoptic_common.checkpoint.weight_names import class_table_difference
from panoptic_common.data.catalog import class_table


def fill_classes(cfg: CN, class_table: Sequence[Mapping[str, Any]]) -> None:
    """Fill class counts that are -1 from a class table, and refuse counts that disagree with it.

    Args:
        cfg: a config with the keys of `add_panoptic_config`; changed in place, frozen or not.
        class_table: K entries in contiguous order, each with "name" and "isthing".

    Raises:
        ValueError: a count or the thing mask in `cfg` disagrees with the table.
    """
    is_thing = tuple(bool(entry["isthing"]) for entry in class_table)
    semantic, detected = (len(is_thing), "classes"), (sum(is_thing), "thing classes")
    if cfg.MODEL.PANOPTIC.NUMBERING == "separate":
        semantic = (len(is_thing) - sum(is_thing) + 1, "classes if all things are one")
    elif cfg.MODEL.PANOPTIC.NUMBERING == "joint":
        detected = semantic
    expected = {
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": semantic,
        "MODEL.ROI_HEADS.NUM_CLASSES": detected,
    }
    frozen = cfg.is_frozen()
    cfg.defrost()
    for key, (count, what) in expected.items():
        *parents, leaf = key.split(".")
        node = cfg
        for parent in parents:
            node = node[parent]
        if node[leaf] == -1:
            node[leaf] = count
        elif node[leaf] != count:
            raise ValueError(
                f"{key} is {node[leaf]}, but the data set has {count} {what}: "
                f"set it to {count}, or to -1 to take it from the data set"
            )
    if not cfg.MODEL.PANOPTIC.IS_THING:
        cfg.MODEL.PANOPTIC.IS_THING = is_thing
    elif tuple(bool(flag) for flag in cfg.MODEL.PANOPTIC.IS_THING) != is_thing:
        wrong = [
            entry["name"]
            for entry, flag in zip(class_table, cfg.MODEL.PANOPTIC.IS_THING, strict=False)
            if bool(entry["isthing"]) != bool(flag)
        ]
        raise ValueError(
            "MODEL.PANOPTIC.IS_THING disagrees with the data set's class table "
            f"({len(cfg.MODEL.PANOPTIC.IS_THING)} entries for {len(is_thing)} classes; "
            f"first differences: {wrong[:5]}): leave it empty to take it from the data set"
        )
    if frozen:
        cfg.freeze()


def common_class_table(names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the class table that data sets share.

    Args:
        names: of registered data sets.

    Raises:
        ValueError: no data set is named, or two data sets have different class tables.
        FileNotFoundError: a data set is not there.
    """
    if not names:
        raise ValueError("DATASETS.TRAIN and DATASETS.TEST are empty: name at least one data set")
    table = class_table(names[0])
    for name in names[1:]:
        difference = class_table_difference(class_table(name), table)
        if difference is not None:
            raise ValueError(
                f"data sets {name!r} and {names[0]!r} have different class tables ({difference}): "
                "train and test on one table"
            )
    return table
