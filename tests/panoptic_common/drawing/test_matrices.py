"""Confusion matrices: which cell is bright, where names and the line between groups stand."""

from __future__ import annotations

import numpy as np
import pytest

from panoptic_common.drawing.matrices import draw_confusion

NAMES = ["person", "car", "road"]


def cell(image, row: int, column: int, side: int) -> np.ndarray:
    """The left part of a cell, without its digits and lines."""
    room = image.shape[0] - 8 - side * len(NAMES)
    y, x = room + row * side, room + column * side
    return image[y + 3 : y + side - 3, x + 3 : x + 6].astype(int).sum(axis=2)


def test_the_larger_the_share_the_brighter():
    shares = np.array([[1.0, 0.0, 0.0], [0.2, 0.5, 0.3], [np.nan] * 3])
    image = draw_confusion(shares, NAMES, split=2, cell=18)
    light = np.array([[cell(image, r, c, 18).mean() for c in range(3)] for r in range(3)])
    assert light[0, 0] > light[1, 1] > light[1, 2] > light[1, 0] > light[0, 1]
    paper = image[1, 1].astype(int).sum()
    assert (light[2] == paper).all()  # no such class: as the paper around


def test_names_stand_beside_rows_and_above_columns():
    image = draw_confusion(np.eye(3), NAMES, cell=18).astype(int).sum(axis=2)
    room = len(image) - 8 - 3 * 18
    paper = image[1, 1]
    for k in range(3):
        band = slice(room + 18 * k, room + 18 * (k + 1))
        assert (image[band, :room] > paper).any() and (image[:room, band] > paper).any()
        # Those above are those beside, turned: the same letters, upwards.
        beside, above = image[band, :room], image[:room, band]
        ink = (beside > paper + 300).sum()
        assert ink > 0 and abs(int((above > paper + 300).sum()) - int(ink)) <= 2


def test_a_line_parts_the_groups_and_digits_need_room():
    shares = np.full((3, 3), 1 / 3)
    with_line, without = (draw_confusion(shares, NAMES, split=s, cell=18) for s in (1, 0))
    assert (with_line != without).any()
    assert not (draw_confusion(shares, NAMES, split=3, cell=18) != without).any()
    # 33 % in digits: more than one colour in a cell of 36 pixels, one in a cell of 18.
    assert len(np.unique(without[-24:-12, -24:-12].reshape(-1, 3), axis=0)) == 1
    large = draw_confusion(shares, NAMES, cell=36)
    assert len(np.unique(large[-40:-12, -40:-12].reshape(-1, 3), axis=0)) > 1


@pytest.mark.parametrize(
    ("shares", "names"),
    [(np.eye(2), NAMES), (np.ones((3, 4)), NAMES), (2 * np.eye(3), NAMES), (np.zeros((0, 0)), [])],
)
def test_what_is_no_matrix_of_shares_is_refused(shares, names):
    with pytest.raises(ValueError, match=r"matrix of shape|numbers 0\.\.1"):
        draw_confusion(shares, names)
