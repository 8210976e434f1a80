"""Heat, probabilities and lines over an image: their scales, places and colours."""

from __future__ import annotations

import numpy as np
import pytest

from panoptic_common.drawing.heat import draw_heat, draw_lines, draw_links, draw_probabilities


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype(np.uint8)


def test_heat_is_hot_where_it_is_high(image):
    values = np.zeros((6, 9))
    values[1, 7] = 3.0
    drawn = draw_heat(image, values, (10, 50)).astype(int)
    assert drawn[15, 75].sum() > drawn[15, 20].sum() + 100
    cold = drawn[10:20, 10:30]
    assert np.abs(cold.max(axis=2) - cold.min(axis=2)).max() <= 2  # grey
    assert tuple(drawn[50, 10]) == (80, 255, 120)  # the mark
    for odd in (np.zeros((2, 2)), np.full((2, 2), np.nan), np.array([[-np.inf, 1.0]])):
        assert draw_heat(image, odd, (500, -3)).shape == image.shape
    with pytest.raises(ValueError, match=r"heat is \(h, w\)"):
        draw_heat(image, np.zeros(3), (0, 0))


def test_probabilities_have_a_fixed_scale_in_squares(image):
    """A map of 0.3 everywhere is not hot because nothing is hotter, and cells have no soft rims."""
    cold, warm, hot = (
        draw_probabilities(image, np.full((2, 3), p)).astype(int) for p in (0, 0.3, 1.0)
    )
    assert np.abs(cold.max(axis=2) - cold.min(axis=2)).max() <= 2  # grey
    assert cold[5, 5].sum() < hot[5, 5].sum() and np.abs(warm - hot).max() > 60
    cells = draw_probabilities(np.zeros_like(image), np.array([[0, 1], [1, 0]]))
    assert len(np.unique(cells.reshape(-1, 3), axis=0)) == 2
    assert (cells[:30, :45] == cells[0, 0]).all() and (cells[:30, 45:] == cells[0, 89]).all()


def test_marked_cells_are_lines_over_the_dimmed_image(image):
    cells = np.zeros((6, 9))
    cells[:, 4], cells[3, 6] = 1, 0.5
    drawn = draw_lines(image, cells)
    assert (drawn[:, 40:50] == (255, 226, 64)).all()
    np.testing.assert_allclose(drawn[:, :40], image[:, :40] / 2, atol=0.5)
    half = 0.125 * image[35, 65] + 0.75 * np.array([255, 226, 64])
    np.testing.assert_allclose(drawn[35, 65], half, atol=1)
    as_bool = draw_lines(image, cells == 1, colour=(1, 2, 3))
    assert (as_bool[:, 40:50] == (1, 2, 3)).all()


@pytest.mark.parametrize("draw", [draw_probabilities, draw_lines])
def test_maps_that_hold_no_shares_are_refused(draw, image):
    for values in (np.full((2, 2), 1.5), np.full((2, 2), -0.1), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match="numbers 0..1"):
            draw(image, values)
    for values in (np.zeros(3), np.zeros((2, 2, 2)), np.zeros((0, 2))):
        with pytest.raises(ValueError, match=r"is \(h, w\)"):
            draw(image, values)


def test_scale_enlarges_and_the_input_stays(image):
    before = image.copy()
    assert draw_heat(image, np.eye(3), (1, 1), scale=2).shape == (120, 180, 3)
    assert draw_probabilities(image, np.eye(3), scale=2).shape == (120, 180, 3)
    assert draw_lines(image, np.eye(3), scale=2).shape == (120, 180, 3)
    np.testing.assert_array_equal(image, before)


def test_links_are_marked_at_their_ends(image):
    """Blue where joined for sure, red where cut for sure; a cut is hollow, with a cross."""
    ends = [(30, 30), (70, 30), (50, 10), (50, 50)]
    cut = [False, False, True, True]
    drawn = draw_links(image, (50, 30), ends, [0, 1, 0, 1], cut, scale=16).astype(int)

    def middle(x, y, beside=0):
        return tuple(drawn[y * 16 + 8, x * 16 + 8 + beside])

    assert middle(30, 30) == (64, 120, 255) and middle(70, 30) == (255, 64, 48)
    # Beside the middle of a ring there is no colour of it, in a disc there is.
    assert middle(70, 30, beside=6) == (255, 64, 48)
    assert middle(50, 50, beside=6) == (0, 0, 0)
    red, _, blue = middle(50, 50)
    assert red > blue + 100
    red, _, blue = middle(50, 10)
    assert blue > red + 100
    far = drawn[:40, :40]
    assert (far.max(axis=2) == far.min(axis=2)).all()  # grey
    assert draw_links(image, (5, 5), [], [], []).shape == image.shape


def test_links_that_do_not_fit_together_are_refused(image):
    with pytest.raises(ValueError, match="1 ends with 2 probabilities and 1 cuts"):
        draw_links(image, (5, 5), [(1, 1)], [0.5, 0.5], [True])
    with pytest.raises(ValueError, match="use 0..1"):
        draw_links(image, (5, 5), [(1, 1)], [1.5], [True])
