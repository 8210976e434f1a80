"""Augmentations: closed forms of the relighting, channel orders, sizes, seeds, config errors."""

from __future__ import annotations

import colorsys
import pickle

import numpy as np
import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import transforms as T

from panoptic_common.config import add_panoptic_config
from panoptic_common.data.augmentations import (
    QuarterTurnTransform,
    RandomQuarterTurn,
    RandomRelight,
    RandomScale,
    RelightTransform,
    build_augmentations,
)


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    add_panoptic_config(cfg)
    return cfg


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(12, 15, 3), dtype=np.uint8)


# ------------------------------------------------------------------------------------ relighting


def test_neutral_relighting_changes_nothing(image: np.ndarray) -> None:
    relit = RelightTransform().apply_image(image)
    np.testing.assert_array_equal(relit, image)
    assert relit is not image


def _slow_relight(
    image: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float
) -> np.ndarray:
    """Relight an RGB image step by step, pixel by pixel, as the words of the class say."""
    values = image.astype(float) * brightness

    def luma(pixels: np.ndarray) -> np.ndarray:
        return 0.299 * pixels[..., 0] + 0.587 * pixels[..., 1] + 0.114 * pixels[..., 2]

    mean = luma(values).mean()
    values = mean + contrast * (values - mean)
    grey = luma(values)[..., None]
    values = (grey + saturation * (values - grey)).clip(0, 255)
    for pixel in values.reshape(-1, 3):  # a view: writes into values
        h, s, v = colorsys.rgb_to_hsv(*pixel / 255)
        pixel[:] = 255 * np.array(colorsys.hsv_to_rgb((h + hue) % 1, s, v))
    return values


@pytest.mark.parametrize("seed", range(5))
def test_relighting_equals_the_steps_one_after_another(image: np.ndarray, seed: int) -> None:
    brightness, contrast, saturation = np.random.default_rng(seed).uniform(0.5, 1.5, 3)
    hue = np.random.default_rng(seed).uniform(-0.5, 0.5)
    relit = RelightTransform(brightness, contrast, saturation, hue, "RGB").apply_image(image)
    expected = _slow_relight(image, brightness, contrast, saturation, hue)
    assert np.abs(relit - expected).max() < 0.51  # rounding


def test_bgr_and_rgb_are_relit_alike(image: np.ndarray) -> None:
    amounts = {"brightness": 1.1, "contrast": 0.9, "saturation": 1.2, "hue": 0.1}
    as_rgb = RelightTransform(**amounts, image_format="RGB").apply_image(image)
    as_bgr = RelightTransform(**amounts, image_format="BGR").apply_image(image[:, :, ::-1])
    np.testing.assert_array_equal(as_bgr[:, :, ::-1], as_rgb)
    wrong = RelightTransform(**amounts, image_format="BGR").apply_image(image)
    assert not np.array_equal(wrong, as_rgb)


def test_a_third_of_a_turn_makes_red_green() -> None:
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 200
    turned = RelightTransform(hue=1 / 3, image_format="RGB").apply_image(red)
    assert turned[0, 0].tolist() == [0, 200, 0]
    blue_in_bgr = np.zeros((1, 1, 3), np.uint8)
    blue_in_bgr[..., 0] = 200
    turned = RelightTransform(hue=1 / 3, image_format="BGR").apply_image(blue_in_bgr)
    assert turned[0, 0].tolist() == [0, 0, 200]  # blue turns red


def test_grey_stays_grey_and_bright_values_saturate() -> None:
    grey = np.full((2, 2, 3), 100, np.uint8)
    transform = RelightTransform(brightness=1.5, contrast=0.5, saturation=2.0, hue=0.3)
    assert (transform.apply_image(grey) == 150).all()  # contrast of a constant image: none
    assert (RelightTransform(brightness=2.0).apply_image(grey * 2) == 255).all()  # no wrap round


def test_gamma_bends_the_middle_and_keeps_the_ends() -> None:
    image = np.repeat(np.array([[0, 51, 255]], np.uint8)[:, :, None], 3, axis=2)
    bent = RelightTransform(gamma=2.0).apply_image(image)
    np.testing.assert_array_equal(bent[0, :, 0], [0, 10, 255])  # 255 (51 / 255)^2 = 10.2
    np.random.seed(0)
    drawn = [RandomRelight(gamma=1.0).get_transform(image).gamma for _ in range(300)]
    assert 0.5 <= min(drawn) < 0.55 and 1.8 < max(drawn) <= 2.0


def test_without_gamma_the_draws_are_those_of_before(image: np.ndarray) -> None:
    np.random.seed(3)
    first = RandomRelight().get_transform(image)
    following = np.random.uniform()
    np.random.seed(3)
    draw = np.random.uniform(-1.0, 1.0, size=4)
    assert first.brightness == 1.0 + 0.2 * draw[0] and first.gamma == 1.0
    assert following == np.random.uniform()


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_quarter_turns_move_pixels_and_points_alike(image: np.ndarray, quarters: int) -> None:
    turn = QuarterTurnTransform(*image.shape[:2], quarters)
    turned = turn.apply_image(image)
    np.testing.assert_array_equal(turned, np.rot90(image, quarters))
    np.testing.assert_array_equal(turn.apply_segmentation(image[..., 0]), turned[..., 0])
    # The centre of pixel (row, column) is the point (column + 1/2, row + 1/2).
    for row, column in ((0, 0), (3, 14), (11, 7)):
        x, y = turn.apply_coords(np.array([[column + 0.5, row + 0.5]]))[0]
        assert (turned[int(y), int(x)] == image[row, column]).all()
    np.testing.assert_array_equal(turn.inverse().apply_image(turned), image)
    there_and_back = turn.inverse().apply_coords(turn.apply_coords(np.array([[2.5, 4.0]])))
    np.testing.assert_array_equal(there_and_back, [[2.5, 4.0]])


def test_all_quarter_turns_are_drawn(image: np.ndarray) -> None:
    np.random.seed(0)
    drawn = {RandomQuarterTurn().get_transform(image).quarters for _ in range(60)}
    assert drawn == {0, 1, 2, 3}


def test_relighting_leaves_geometry_alone(image: np.ndarray) -> None:
    transform = RelightTransform(brightness=0.5)
    coords = np.array([[1.0, 2.0]])
    assert transform.apply_coords(coords) is coords
    assert transform.apply_segmentation(image) is image
    np.testing.assert_array_equal(transform.inverse().apply_image(image), image)
    with pytest.raises(ValueError, match="uint8"):
        transform.apply_image(image.astype(np.float32))


def test_relighting_draws_within_the_ranges_and_uses_them_whole(image: np.ndarray) -> None:
    np.random.seed(0)
    augmentation = RandomRelight(0.3, 0.2, 0.1, 0.05, "RGB")
    drawn = [augmentation.get_transform(image) for _ in range(300)]
    spreads = {"brightness": 0.3, "contrast": 0.2, "saturation": 0.1, "hue": 0.05}
    for name, spread in spreads.items():
        middle = 0 if name == "hue" else 1
        offsets = np.array([getattr(transform, name) for transform in drawn]) - middle
        assert np.abs(offsets).max() <= spread
        assert offsets.max() > 0.9 * spread and offsets.min() < -0.9 * spread
    assert {transform.image_format for transform in drawn} == {"RGB"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"brightness": -0.1}, "RELIGHT.BRIGHTNESS"),
        ({"contrast": 1.1}, "RELIGHT.CONTRAST"),
        ({"saturation": 2}, "RELIGHT.SATURATION"),
        ({"hue": 0.6}, "RELIGHT.HUE"),
        ({"gamma": -0.1}, "RELIGHT.GAMMA"),
        ({"image_format": "L"}, "INPUT.FORMAT"),
    ],
)
def test_wrong_amounts_name_their_key(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomRelight(**arguments)


# ----------------------------------------------------------------------------------------- scale


def test_scale_keeps_the_proportions() -> None:
    np.random.seed(0)
    image = np.zeros((50, 100, 3), np.uint8)
    heights = []
    for _ in range(200):
        transform = RandomScale(0.5, 2.0).get_transform(image)
        heights.append(transform.new_h)
        assert abs(transform.new_w - 2 * transform.new_h) <= 1
        assert transform.apply_image(image).shape == (transform.new_h, transform.new_w, 3)
    assert 25 <= min(heights) < 30 and 95 < max(heights) <= 100


def test_scale_never_makes_an_empty_image() -> None:
    transform = RandomScale(0.01, 0.01).get_transform(np.zeros((3, 4, 3), np.uint8))
    assert (transform.new_h, transform.new_w) == (1, 1)


@pytest.mark.parametrize("factors", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_impossible_scales_are_refused(factors: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="INPUT.RANDOM_SCALE"):
        RandomScale(*factors)


# ---------------------------------------------------------------------------------------- config


def _types(augmentations: list[T.Augmentation]) -> list[str]:
    return [type(augmentation).__name__ for augmentation in augmentations]


def test_default_training_is_that_of_coco(cfg: CfgNode) -> None:
    resize, flip = build_augmentations(cfg, is_train=True)
    assert isinstance(resize, T.ResizeShortestEdge) and isinstance(flip, T.RandomFlip)
    assert (resize.short_edge_length, resize.max_size) == ((800,), 1333)
    assert flip.horizontal and not flip.vertical


def test_cityscapes_training_scales_crops_flips_and_relights(cfg: CfgNode) -> None:
    cfg.INPUT.RANDOM_SCALE = (0.5, 2.0)
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [20, 40]
    cfg.INPUT.RELIGHT.ENABLED = True
    cfg.INPUT.FORMAT = "RGB"
    augmentations = build_augmentations(cfg, is_train=True)
    assert _types(augmentations) == ["RandomScale", "RandomCrop", "RandomFlip", "RandomRelight"]
    assert augmentations[-1].image_format == "RGB"
    inputs = T.AugInput(np.zeros((50, 100, 3), np.uint8))
    T.AugmentationList(augmentations)(inputs)
    assert inputs.image.shape == (20, 40, 3)
    pickle.loads(pickle.dumps(augmentations))
    assert "RandomRelight" in str(augmentations)


def test_an_image_smaller_than_the_crop_is_taken_whole(cfg: CfgNode) -> None:
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [20, 400]
    cfg.INPUT.RANDOM_SCALE = (0.99, 0.99)
    inputs = T.AugInput(np.zeros((100, 100, 3), np.uint8))
    T.AugmentationList(build_augmentations(cfg, is_train=True))(inputs)
    assert inputs.image.shape == (20, 99, 3)


def test_testing_resizes_only(cfg: CfgNode) -> None:
    cfg.INPUT.RELIGHT.ENABLED = cfg.INPUT.CROP.ENABLED = True
    (resize,) = build_augmentations(cfg, is_train=False)
    assert isinstance(resize, T.ResizeShortestEdge)
    assert resize.max_size == cfg.INPUT.MAX_SIZE_TEST


@pytest.mark.parametrize(("flip", "vertical"), [("none", None), ("vertical", True)])
def test_other_flips(cfg: CfgNode, flip: str, vertical: bool | None) -> None:
    cfg.INPUT.RANDOM_FLIP = flip
    flips = [a for a in build_augmentations(cfg, True) if isinstance(a, T.RandomFlip)]
    assert [a.vertical for a in flips] == ([] if vertical is None else [vertical])


def test_both_flips_and_quarter_turns_come_after_the_crop(cfg: CfgNode) -> None:
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.RANDOM_QUARTER_TURN = "both", True
    cfg.INPUT.CROP.ENABLED = True
    augmentations = build_augmentations(cfg, is_train=True)
    assert _types(augmentations)[1:] == [
        "RandomCrop",
        "RandomFlip",
        "RandomFlip",
        "RandomQuarterTurn",
    ]
    assert [a.vertical for a in augmentations[2:4]] == [False, True]
    assert "RandomQuarterTurn" not in _types(build_augmentations(cfg, is_train=False))


def test_unknown_flip_is_refused(cfg: CfgNode) -> None:
    cfg.INPUT.RANDOM_FLIP = "diagonal"
    with pytest.raises(ValueError, match="INPUT.RANDOM_FLIP is 'diagonal'"):
        build_augmentations(cfg, is_train=True)


def test_the_same_seed_draws_the_same(cfg: CfgNode, image: np.ndarray) -> None:
    cfg.INPUT.RANDOM_SCALE = (0.5, 2.0)
    cfg.INPUT.RELIGHT.ENABLED = True
    augmentations = T.AugmentationList(build_augmentations(cfg, is_train=True))

    def run(seed: int) -> np.ndarray:
        np.random.seed(seed)
        inputs = T.AugInput(image.copy())
        augmentations(inputs)
        return inputs.image

    np.testing.assert_array_equal(run(1), run(1))
    assert not np.array_equal(run(1), run(2))
