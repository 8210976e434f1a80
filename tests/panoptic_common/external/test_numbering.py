"""How models count classes, worked out for a table in which things and stuff alternate."""

from __future__ import annotations

import pytest

from panoptic_common.external.numbering import UNKNOWN, Numbering
from panoptic_common.modeling.semantic_map import SOME_THING

IS_THING = (1, 0, 1, 0, 0)  # person, road, car, sky, wall


def test_separate_counts_things_and_stuff_apart():
    numbering = Numbering("separate", IS_THING)
    assert numbering.things == [0, 2]
    assert numbering.stuff == [UNKNOWN, 1, 3, 4]  # Detectron2's 0 is "things"
    assert numbering.semantic == [SOME_THING, 1, 3, 4]
    assert numbering.semantic_numbers() == [0, 1, 0, 2, 3]
    assert numbering.thing_numbers() == [0, UNKNOWN, 1, UNKNOWN, UNKNOWN]


def test_joint_is_our_own_table_everywhere():
    numbering = Numbering("joint", IS_THING)
    assert numbering.semantic == numbering.semantic_numbers() == [0, 1, 2, 3, 4]
    assert numbering.things == numbering.thing_numbers() == [0, UNKNOWN, 2, UNKNOWN, UNKNOWN]
    assert numbering.stuff == [UNKNOWN, 1, UNKNOWN, 3, 4]


@pytest.mark.parametrize("style", ["separate", "joint"])
@pytest.mark.parametrize("is_thing", [(0, 0, 1, 1), (1, 1, 0), (0, 0), (1, 1)])
def test_to_the_model_and_back(style, is_thing):
    numbering = Numbering(style, is_thing)
    for k, number in enumerate(numbering.semantic_numbers()):
        assert numbering.semantic[number] in (k, SOME_THING)
        assert (numbering.semantic[number] == k) or is_thing[k]
    for k, number in enumerate(numbering.thing_numbers()):
        assert (number != UNKNOWN) == bool(is_thing[k])
        assert number == UNKNOWN or numbering.things[number] == k


def test_another_style_is_refused():
    with pytest.raises(ValueError, match="style is '': use 'separate' or 'joint'"):
        Numbering("", IS_THING)
