"""Marked errors: which pixel has which colour."""

from __future__ import annotations

import numpy as np
import pytest

from panoptic_common.drawing.errors import draw_errors

RED, BLUE, YELLOW = (250, 0, 0), (0, 0, 250), (240, 240, 0)


def is_colour(pixel, colour) -> bool:
    """Whether a pixel is grey with this colour over it."""
    on = [value for value, channel in zip(pixel.tolist(), colour, strict=True) if channel]
    off = [value for value, channel in zip(pixel.tolist(), colour, strict=True) if not channel]
    return min(on) > max(off) + 60


def is_grey(pixel) -> bool:
    return np.ptp(pixel.astype(int)) <= 1


def example(**keywords):
    # 20 x 20: true segment 1 at the upper left (missed), 2 at the lower left, matched by 7, which
    # lacks its last two columns; predicted 6 at the upper right (invented).
    truth, prediction = np.full((2, 20, 20), 9, np.int32)
    truth[:8, :8], truth[12:, :10] = 1, 2
    prediction[12:, :8], prediction[:8, 12:] = 7, 6
    arguments = {
        "true_colours": {1: RED},
        "predicted_colours": {6: BLUE},
        "pairs": {2: 7, 9: 9},
        "inexact": YELLOW,
        **keywords,
    }
    return draw_errors(np.full((20, 20, 3), 100, np.uint8), truth, prediction, **arguments)


@pytest.mark.parametrize("scale", [1, 3])
def test_each_error_has_its_colour(scale):
    result = example(scale=scale)
    assert result.shape == (20 * scale, 20 * scale, 3)

    def at(row, column):
        return result[row * scale + scale // 2, column * scale + scale // 2]

    assert is_colour(at(4, 4), RED) and is_colour(at(4, 16), BLUE)
    assert result[0, 7 * scale].tolist() != at(4, 4).tolist()  # the line is stronger than the area
    assert is_colour(at(16, 8), YELLOW) and is_colour(at(16, 8), YELLOW)
    assert is_grey(at(16, 4)) and is_grey(at(10, 16))  # matched, and matched background
    assert at(10, 16).max() < 100  # darker than the image


def test_a_prediction_over_void_is_no_error():
    truth, prediction = np.zeros((2, 9, 9), np.int32)
    truth[:, :5], prediction[:, :8] = 1, 5
    image = np.full((9, 9, 3), 90, np.uint8)
    result = draw_errors(
        image,
        truth,
        prediction,
        true_colours={},
        predicted_colours={},
        pairs={1: 5},
        inexact=YELLOW,
    )
    assert np.ptp(result.astype(int), axis=2).max() <= 1
    assert (image == 90).all()


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="the map is"):
        draw_errors(
            np.zeros((4, 4, 3), np.uint8),
            np.zeros((4, 5), np.int32),
            np.zeros((4, 4), np.int32),
            true_colours={},
            predicted_colours={},
            pairs={},
            inexact=YELLOW,
        )
