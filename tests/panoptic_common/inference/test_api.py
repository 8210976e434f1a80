"""The way in from Python: what it takes, what comes out, and the page that shows it."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys

import cops_factory
import model_factory
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image
from project import ROOT
from stub_system import SYSTEMS, TABLE, stub_config, stub_predictor

import panoptic_common
from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.inference.api import PanopticModel, load
from panoptic_common.inference.predictor import Predictor

PAGE = ROOT / "docs" / "howto" / "python.md"


@pytest.fixture
def red() -> np.ndarray:
    """66 x 90 pixels, black on the left and red from column 30 on: the stub's bright segment."""
    image = np.zeros((66, 90, 3), np.uint8)
    image[:, 30:, 0] = 200
    return image


@pytest.fixture(scope="module")
def model() -> PanopticModel:
    return PanopticModel(stub_predictor())


def bright(result) -> list[int]:
    return [segment.area for segment in result.segments]


def test_every_form_of_an_image_gives_the_same(model, red, tmp_path):
    path = tmp_path / "street.png"
    Image.fromarray(red).save(path)
    tensor = torch.from_numpy(red).permute(2, 0, 1)
    with_alpha = np.dstack([red, np.full(red.shape[:2], 255, np.uint8)])
    expected = model(red).panoptic
    assert expected.max() == 2 and expected[:, :30].max() == 0
    for image in (
        *(str(path), path, Image.fromarray(red), Image.fromarray(with_alpha)),
        *(red.astype(np.int64), red / 255.0, (red / 255).astype(np.float16)),
        *(red.astype(np.uint16) * 257, with_alpha, np.asfortranarray(red), red[:, :, :].copy()),
        *(tensor, tensor / 255.0, (tensor / 255.0).bfloat16()),
    ):
        np.testing.assert_array_equal(model(image).panoptic, expected)
    for image in (red[:, :, ::-1], tensor.flip(0)):
        np.testing.assert_array_equal(model(image, order="BGR").panoptic, expected)
        assert bright(model(image)) == []  # blue, which the stub does not see


def test_grey_images(model, red):
    grey = red[:, :, 0]
    for image in (grey, grey[:, :, None], torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        assert bright(model(image)) == [3960]


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (np.full((4, 5, 3), 200.0), ValueError, "floats from 200 to 200 are no image.*uint8"),
        (np.full((4, 5, 3), np.nan), ValueError, "floats from nan to nan"),
        (np.full((4, 5, 3), -1), ValueError, "int64 values from -1 to -1"),
        (np.full((4, 5, 3), 70000), ValueError, "int64 values from 70000"),
        (np.zeros((4, 5, 3), bool), TypeError, "an array of bool"),
        (np.zeros((4, 5, 3), complex), TypeError, "an array of complex128"),
        (np.zeros((3, 40, 50), np.uint8), ValueError, "move the channels to the end"),
        (np.zeros((4, 5, 2), np.uint8), ValueError, r"shape \(4, 5, 2\)"),
        (np.zeros((0, 5, 3), np.uint8), ValueError, "no pixel"),
        (np.zeros(7, np.uint8), ValueError, r"shape \(7,\)"),
        (np.ma.masked_less(np.zeros((4, 5, 3), np.uint8), 1), ValueError, "masked pixels"),
        (torch.zeros(40, 50, 3), ValueError, "come first in a tensor"),
        (None, TypeError, "a NoneType is no image"),
        (7, TypeError, "a int is no image"),
        ("no_such_file.jpg", FileNotFoundError, "no_such_file.jpg"),
    ],
)
def test_what_is_no_image_is_refused(model, image, error, words):
    with pytest.raises(error, match=words):
        model(image)


def test_an_unknown_order_or_precision_is_refused(model, red):
    with pytest.raises(ValueError, match="order is 'rgb'"):
        model(red, order="rgb")
    with pytest.raises(ValueError, match="precision is 'half'"):
        load("model.pth", precision="half")
    with pytest.raises(ValueError, match="batch_size is 0"):
        model([red], batch_size=0)


def test_too_large_an_array_is_refused(model, red, monkeypatch):
    monkeypatch.setenv("PANOPTIC_MAX_IMAGE_PIXELS", "100")
    for image in (red, Image.fromarray(red)):
        with pytest.raises(ValueError, match="more than 100 pixels"):
            model(image)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_list_gives_a_list_in_its_order(model, red, batch_size):
    images = [red, red[:, 20:], np.zeros((8, 8), np.uint8)]
    results = model(images, batch_size=batch_size)
    assert [bright(result) for result in results] == [[3960], [3960], []]
    assert [result.name for result in results] == ["image_0", "image_1", "image_2"]
    assert model([]) == [] and model(()) == []
    assert len(model(torch.zeros(2, 3, 8, 8))) == 2
    with pytest.raises(ValueError, match="image 1 of the list: floats"):
        model([red, red * 1.0])


def test_segments_say_what_they_are(model, red):
    (segment,) = model(red).segments
    assert (segment.id, segment.class_name, segment.class_index) == (2, "bright", 1)
    assert (segment.category_id, segment.is_thing, segment.score) == (7, True, 0.9)
    assert (segment.area, segment.box) == (3960, (30, 0, 60, 66))
    np.testing.assert_array_equal(segment.mask, red[:, :, 0] > 0)


def test_segments_can_be_looked_up(model, red):
    """Also where Python compares dataclasses field by field, as 3.13 does."""
    (first,), (second,) = model(red).segments, model(red).segments
    assert [first, second].index(second) == 1 and {first: "a", second: "b"}[second] == "b"


def test_what_is_saved_is_what_was_found(model, red, tmp_path):
    result = model(red)
    path = result.save(tmp_path / "new" / "folder")
    np.testing.assert_array_equal(read_id_map(path), result.panoptic)
    entry = json.loads(path.with_suffix(".json").read_text())
    assert entry == result.to_coco() and entry["file_name"] == path.name
    assert entry["segments_info"][0]["category_id"] == 7
    assert Image.open(path.with_name("image_panoptic.jpg")).size == (90, 66)


@pytest.mark.parametrize("factory", [model_factory, cops_factory])
def test_both_systems_in_every_precision(factory):
    """A trained network is not needed to see that types and sizes fit."""
    cfg = factory.tiny_config()
    table = [{"id": 10 + i, "name": f"class {i}", "isthing": i in (1, 3)} for i in range(5)]
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((40, 50, 3), (33, 64, 3))]
    found = {}
    for precision in ("float32", "bfloat16"):
        model = PanopticModel(Predictor(cfg, factory.tiny_model(), table), precision)
        found[precision] = model(images)
        kernels = [p for p in model.predictor.model.parameters() if p.ndim == 4]
        last = [p.is_contiguous(memory_format=torch.channels_last) for p in kernels]
        assert all(last) == (precision == "bfloat16")
        for image, result in zip(images, found[precision], strict=True):
            assert result.panoptic.shape == image.shape[:2] == result.semantic.shape
            assert sum(s.area for s in result.segments) == np.count_nonzero(result.panoptic)
            assert result.prediction.boxes.dtype == np.float32
    alone = PanopticModel(Predictor(cfg, factory.tiny_model(), table))(images[1])
    np.testing.assert_array_equal(alone.panoptic, found["float32"][1].panoptic)


def test_a_checkpoint_is_all_it_takes_and_the_page_is_true(tmp_path, monkeypatch, red):
    checkpointer = PanopticCheckpointer(
        build_model(stub_config()), str(tmp_path), cfg=stub_config(), class_table=TABLE
    )
    checkpointer.save("model_final", iteration=0)
    Image.fromarray(red).save(tmp_path / "street.jpg", quality=100, subsampling=0)
    monkeypatch.chdir(tmp_path)

    def load_stub(path: str, **options) -> PanopticModel:
        return PanopticModel(Predictor.from_checkpoint(path, SYSTEMS, **options))

    # The stub is no system that the project knows; everything else is as a user has it.
    monkeypatch.setattr(panoptic_common, "load", load_stub, raising=False)
    text = PAGE.read_text(encoding="utf-8")
    test = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test)
    assert runner.summarize().attempted > 10 and runner.failures == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "street.json",
        "street.png",
        "street_panoptic.jpg",
    ]


def test_importing_the_package_stays_cheap():
    code = (
        "import sys, panoptic_common; assert 'torch' not in sys.modules;"
        "from panoptic_common import load; assert callable(load)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        getattr(panoptic_common, "lo" + "de")
