"""Tables that compare models: every number in its place, and a dash for none."""

from __future__ import annotations

import pytest

from panoptic_common.evaluation.comparison import quality_table, variant_table

RESULTS = {
    f"panoptic_seg/{name}{suffix}": 10.0 * i + j
    for i, name in enumerate(("PQ", "SQ", "RQ", "mIoU"))
    for j, suffix in enumerate(("", "_th", "_st"))
}


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_models_stand_side_by_side_under_their_titles():
    other = {name: value + 50 for name, value in RESULTS.items()}
    found = rows(quality_table({"First": RESULTS, "Other one": other}))
    assert found[0] == ["First", "Other", "one"]
    assert found[1] == 2 * ["PQ", "SQ", "RQ", "mIoU"]
    assert found[3:] == [
        ["all", "0.0", "10.0", "20.0", "30.0", "50.0", "60.0", "70.0", "80.0"],
        ["things", "1.0", "11.0", "21.0", "31.0", "51.0", "61.0", "71.0", "81.0"],
        ["stuff", "2.0", "12.0", "22.0", "32.0", "52.0", "62.0", "72.0", "82.0"],
    ]


def test_ways_to_make_the_map_and_other_outputs():
    more = {f"panoptic_seg_merged/PQ{s}": v for s, v in (("", 7.25), ("_th", 8), ("_st", 9))}
    figures = RESULTS | more | {"bbox/AP": 33.3, "sem_seg/mIoU": 50.0}
    variants = {"": "its own", "merged": "the merger", "absent": "never run"}
    text = variant_table("First", figures, variants)
    assert text.startswith("First: PQ by the way it is made")
    assert rows(text)[2:5] == [
        ["its", "own", "0.0", "1.0", "2.0"],
        ["the", "merger", "7.2", "8.0", "9.0"],
        ["never", "run", "-", "-", "-"],
    ]
    assert text.splitlines()[-1] == "mIoU of the semantic output 50.0, box AP 33.3"


def test_a_model_without_panoptic_quality_is_an_error():
    with pytest.raises(KeyError, match="panoptic_seg/PQ"):
        quality_table({"First": {}})
