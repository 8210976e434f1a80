"""Intensities: by hand on small images, and the same in training and testing."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import transforms as T

from panoptic_common.config import add_panoptic_config
from panoptic_common.data.augmentations import build_augmentations
from panoptic_common.data.intensity import IntensityTransform, NormaliseIntensity
from panoptic_common.runtime.intensity import luma


def _apply(image: np.ndarray, **options: object) -> np.ndarray:
    return NormaliseIntensity(**options).get_transform(image).apply_image(image)


def _grey(values: list[list[int]]) -> np.ndarray:
    return np.repeat(np.array(values, np.uint8)[:, :, None], 3, axis=2)


def test_percentiles_become_0_and_255() -> None:
    image = _grey([[10, 20, 30, 40, 50]])
    # From 10 to 50: 10 -> 0, 20 -> 63.75 -> 64, 30 -> 127.5 -> 128, 40 -> 191.25, 50 -> 255.
    stretched = _apply(image, percentiles=(0, 100))
    np.testing.assert_array_equal(stretched[0, :, 0], [0, 64, 128, 191, 255])
    # Of five values the 20th percentile is the first, the 80th the fourth: 10 -> 0, 40 -> 255.
    stretched = _apply(image, percentiles=(20, 80))
    np.testing.assert_array_equal(stretched[0, :, 0], [0, 85, 170, 255, 255])


def test_one_stretch_serves_all_channels() -> None:
    image = np.zeros((1, 2, 3), np.uint8)
    image[0, 0], image[0, 1] = (0, 50, 100), (25, 50, 75)
    stretched = _apply(image, percentiles=(0, 100))
    np.testing.assert_array_equal(stretched[0], [[0, 128, 255], [64, 128, 191]])


@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_flat_image_has_nothing_to_stretch(value: int) -> None:
    image = np.full((3, 4, 3), value, np.uint8)
    np.testing.assert_array_equal(_apply(image, percentiles=(0.5, 99.8)), image)


def test_mostly_bright_images_are_inverted_and_dark_ones_are_not() -> None:
    bright, dark = _grey([[250, 250, 10]]), _grey([[250, 10, 10]])
    np.testing.assert_array_equal(_apply(bright, dark_background=True), 255 - bright)
    np.testing.assert_array_equal(_apply(dark, dark_background=True), dark)
    # Bright is meant after the stretch: of 0..40, 30 lies above the middle.
    half = _grey([[0, 30, 30, 40]])
    inverted = _apply(half, percentiles=(0, 100), dark_background=True)
    np.testing.assert_array_equal(inverted[0, :, 0], [255, 64, 64, 0])


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_grey_is_the_luma_in_either_order(order: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    rgb = image if order == "RGB" else image[:, :, ::-1]
    expected = 0.299 * rgb[..., 0] + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2]
    found = _apply(image, grey=True, image_format=order)
    assert np.abs(found - expected[:, :, None]).max() <= 0.5001
    assert (found[..., 0] == found[..., 2]).all()


def test_luma_keeps_every_grey() -> None:
    image = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    np.testing.assert_array_equal(luma(image, "BGR"), image[..., 0])


def test_geometry_is_left_alone() -> None:
    transform = IntensityTransform(np.arange(256, dtype=np.uint8), grey=True)
    labels = np.arange(6).reshape(2, 3)
    assert transform.apply_segmentation(labels) is labels
    assert transform.apply_coords(labels) is labels
    assert transform.inverse().apply_segmentation(labels) is labels
    with pytest.raises(ValueError, match="uint8"):
        transform.apply_image(np.zeros((2, 2, 3)))


@pytest.mark.parametrize("percentiles", [(5,), (5, 5), (-1, 50), (0, 101), (90, 10)])
def test_wrong_percentiles_are_refused(percentiles: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="INPUT.INTENSITY.PERCENTILES"):
        NormaliseIntensity(percentiles=percentiles)


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    add_panoptic_config(cfg)
    return cfg


def test_a_config_normalises_in_training_and_testing_before_all_else(cfg: CfgNode) -> None:
    for is_train in (True, False):
        first = build_augmentations(cfg, is_train)[0]
        assert not isinstance(first, NormaliseIntensity)
    cfg.INPUT.INTENSITY.PERCENTILES = (1.0, 99.0)
    cfg.INPUT.FORMAT = "RGB"
    for is_train in (True, False):
        first = build_augmentations(cfg, is_train)[0]
        assert isinstance(first, NormaliseIntensity)
        assert (first.percentiles, first.image_format) == ((1.0, 99.0), "RGB")


def test_a_factor_at_test_time_replaces_the_shortest_edge(cfg: CfgNode) -> None:
    cfg.INPUT.TEST_SCALE, cfg.INPUT.MAX_SIZE_TEST = 2.0, 90
    for size, expected in (((20, 30), (40, 60)), ((30, 60), (45, 90))):
        inputs = T.AugInput(np.zeros((*size, 3), np.uint8))
        T.AugmentationList(build_augmentations(cfg, is_train=False))(inputs)
        assert inputs.image.shape[:2] == expected
    cfg.INPUT.TEST_SCALE = -1.0
    with pytest.raises(ValueError, match="INPUT.TEST_SCALE is -1.0"):
        build_augmentations(cfg, is_train=False)
