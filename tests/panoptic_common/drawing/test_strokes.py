"""Enlarging, fitting, blending, and text that stays inside the image."""

from __future__ import annotations

import numpy as np
import pytest

from panoptic_common.drawing.strokes import (
    TextStyle,
    as_image,
    blend,
    enlarge,
    enlarge_labels,
    fit_width,
    legible_scale,
)


def test_images_below_512_pixels_are_enlarged_by_the_nearest_whole_factor():
    scales = {width: legible_scale(np.zeros((1, width, 3), np.uint8)) for width in (96, 384, 900)}
    assert scales == {96: 5, 384: 1, 900: 1}  # 512 / 96 = 5.3, 512 / 384 = 1.3, 512 / 900 = 0.6
    assert legible_scale(np.zeros((1, 96, 3), np.uint8), width=200) == 2


def test_an_image_is_checked_and_copied():
    image = np.zeros((2, 3, 3), np.uint8)
    as_image(image)[:] = 1
    assert image.max() == 0
    for wrong in (image[..., :2], image.astype(float), image[:0], image[0]):
        with pytest.raises(ValueError, match="uint8 RGB"):
            as_image(wrong)


def test_blend_mixes_by_its_share_and_rounds():
    image, colours = np.full((1, 1, 3), 100, np.uint8), np.full((1, 1, 3), 201.0)
    assert blend(image, colours, 0.5)[0, 0, 0] == 150  # 150.5, to even
    assert blend(image, colours, 0.0)[0, 0, 0] == 100 and blend(image, colours, 1.0)[0, 0, 0] == 201


def test_labels_are_repeated_and_never_mixed():
    labels = np.array([[1, 70000]])
    canvas = enlarge(np.zeros((1, 2, 3), np.uint8), 2)
    assert enlarge_labels(labels, 2, canvas).tolist() == [[1, 1, 70000, 70000]] * 2
    with pytest.raises(ValueError, match=r"the map is \(1, 2\), the image \(1, 1\)"):
        enlarge_labels(labels, 2, canvas[:, :2])


def test_fit_width_keeps_the_aspect():
    assert fit_width(np.zeros((10, 30, 3), np.uint8), 60).shape == (20, 60, 3)
    assert fit_width(np.zeros((1, 300, 3), np.uint8), 60).shape == (1, 60, 3)


def test_text_moves_into_the_image():
    style, image = TextStyle(0.5, 1), np.zeros((60, 200, 3), np.uint8)
    width, height = style.size("car")
    assert style.box("car", (0, 0), image) == (0, 0, width, height)
    assert style.box("car", (199, 59), image) == (200 - width, 60 - height, 200, 60)
