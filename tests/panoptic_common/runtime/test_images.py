"""From an image to a network's input without torch: the data mapper's augmentations as the twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_factory import IS_THING, tiny_config, tiny_model
from torch_export import noise_image, predictor_of

from panoptic_common.inference.exporting import image_preparation
from panoptic_common.modeling.network_input import normalised_batch
from panoptic_common.runtime.images import check_preparation, prepare_image

CHANGES = [
    {},
    {"INPUT.MIN_SIZE_TEST": 0},
    {"INPUT.MIN_SIZE_TEST": 40, "INPUT.MAX_SIZE_TEST": 50},
    {"INPUT.MIN_SIZE_TEST": 90, "INPUT.MAX_SIZE_TEST": 1333, "INPUT.FORMAT": "RGB"},
    {"INPUT.TEST_SCALE": 1.5, "INPUT.MAX_SIZE_TEST": 120},
    {
        "INPUT.MIN_SIZE_TEST": 0,
        "INPUT.INTENSITY.GREY": True,
        "INPUT.INTENSITY.PERCENTILES": (1.0, 99.0),
        "INPUT.INTENSITY.DARK_BACKGROUND": True,
    },
]


@pytest.fixture(scope="module")
def model():
    return tiny_model().eval()


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("size", [(61, 94), (94, 61), (33, 33)])
def test_the_input_is_the_data_mappers(model, changes, size):
    cfg = tiny_config(changes)
    image = noise_image(1, size)
    inputs = predictor_of(cfg, model, IS_THING).prepare(image)
    mean = torch.tensor(cfg.MODEL.PIXEL_MEAN).view(-1, 1, 1)
    std = torch.tensor(cfg.MODEL.PIXEL_STD).view(-1, 1, 1)
    expected = normalised_batch([inputs], mean, std, 32)
    options = {**image_preparation(cfg), "divisibility": 32, "smallest": [1, 1]}
    found, input_size = prepare_image(image, options)
    assert input_size == tuple(expected.image_sizes[0])
    normalised = (torch.from_numpy(found) - mean) / std
    torch.testing.assert_close(normalised, expected.tensor, rtol=0, atol=0)


def test_the_least_size_is_padded_to():
    options = {**image_preparation(tiny_config()), "divisibility": 4, "smallest": [50, 10]}
    options["shortest"] = 0
    found, size = prepare_image(np.zeros((7, 9, 3), np.uint8), options)
    assert found.shape == (1, 3, 52, 12)
    assert size == (7, 9)
    assert not found[0, :, :7, :9].any()
    assert (found[0, :, 7:] == 110).all()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("image_format", "GBR", "GBR"),
        ("scale", -1.0, "scale is -1.0"),
        ("divisibility", -2, "divisibility is -2"),
        ("pixel_mean", [1.0], "pixel_mean has 3 numbers"),
    ],
)
def test_a_wrong_preparation_is_refused(key, value, message):
    options = {**image_preparation(tiny_config()), "divisibility": 4, "smallest": [1, 1]}
    check_preparation(options)
    with pytest.raises(ValueError, match=message):
        check_preparation({**options, key: value})
