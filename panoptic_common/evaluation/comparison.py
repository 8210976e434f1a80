"""Tables that set the results of several models side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

_MEASURES = ("PQ", "SQ", "RQ", "mIoU")
_GROUPS = {"all": "", "things": "_th", "stuff": "_st"}
_OTHERS = {"mIoU of the semantic output": "sem_seg/mIoU", "box AP": "bbox/AP", "mask AP": "segm/AP"}


def quality_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Lay out PQ, SQ, RQ and mIoU of models side by side, for all classes, things and stuff.

    Args:
        results: of each model by its title: figures by name, such as "panoptic_seg/PQ_th".
    """
    headers = [""]
    rows: list[list[Any]] = [[group] for group in _GROUPS]
    for title, figures in results.items():
        headers += [f"{title}\n{_MEASURES[0]}", *(f"\n{measure}" for measure in _MEASURES[1:])]
        for row, suffix in zip(rows, _GROUPS.values(), strict=True):
            row += [figures[f"panoptic_seg/{measure}{suffix}"] for measure in _MEASURES]
    return tabulate(rows, headers, floatfmt=".1f")


def variant_table(title: str, figures: Mapping[str, float], variants: Mapping[str, str]) -> str:
    """Lay out the PQ of the ways to make one model's panoptic map, and its other outputs below.

    Args:
        title: of the model.
        figures: its results by name.
        variants: what each way is called in the table, by its name in TEST.PANOPTIC_VARIANTS; "" is
            the model's own. One without results gets dashes.
    """
    rows = []
    for variant, description in variants.items():
        output = f"panoptic_seg_{variant}" if variant else "panoptic_seg"
        values = [figures.get(f"{output}/PQ{suffix}") for suffix in _GROUPS.values()]
        rows.append([description, *values])
    headers = [f"{title}: PQ by the way it is made", *_GROUPS]
    table = tabulate(rows, headers, floatfmt=".1f", missingval="-", numalign="right")
    others = [f"{what} {figures[key]:.1f}" for what, key in _OTHERS.items() if key in figures]
    return f"{table}\n{', '.join(others)}"
