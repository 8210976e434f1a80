"""tools/studies/peers/stardist_nuclei: what is set around StarDist, without StarDist."""

from __future__ import annotations

import ast
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from project import ROOT

from panoptic_common.config.files import read_yaml
from panoptic_common.runtime.intensity import change_values, value_table
from panoptic_tools.studies.peers import stardist_nuclei as peer


@pytest.mark.parametrize("system", ["unified", "cops"])
def test_images_are_made_as_the_nuclei_configs_make_them(system, tmp_path):
    path = ROOT / f"configs/{system}/nuclei/Base.yaml"
    intensity = read_yaml(str(path))["INPUT"]["INTENSITY"]
    assert intensity["GREY"] and intensity["DARK_BACKGROUND"]
    assert ast.literal_eval(str(intensity["PERCENTILES"])) == peer.PERCENTILES
    bright = np.random.default_rng(0).integers(150, 250, (8, 9, 3), dtype=np.uint8)
    Image.fromarray(bright).save(tmp_path / "a.png")
    table = value_table(
        bright, grey=True, percentiles=peer.PERCENTILES, dark_background=True, image_format="RGB"
    )
    expected = change_values(bright, table, grey=True, image_format="RGB")[:, :, 0]
    np.testing.assert_allclose(peer.read_grey(tmp_path / "a.png"), expected / 255.0, atol=1e-7)


def test_label_images_are_no_images(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tools/label_images\.py"):
        peer.list_images(tmp_path)
    labels = np.array([[0, 300]], dtype=np.uint16)
    for name in ("b", "a"):
        Image.fromarray(np.zeros((1, 2, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(labels).save(tmp_path / f"{name}_masks.png")
    files = peer.list_images(tmp_path)
    assert [path.name for path in files] == ["a.png", "b.png"]
    np.testing.assert_array_equal(peer.read_labels(files[0]), labels)


def test_labels_stay_on_their_pixels_when_a_patch_is_changed():
    labels = np.arange(36).reshape(6, 6)
    augment, seen = peer.Augment(0), set()
    for _ in range(60):
        # Values so far apart that no noise or lighting mixes their order.
        image, changed = augment(labels.astype(np.float32), labels)
        assert np.array_equal(np.argsort(image, axis=None), np.argsort(changed, axis=None))
        seen.add(changed.tobytes())
    assert len(seen) == 8  # four turns, flipped or not


def test_the_rate_falls_to_nothing_and_training_ends(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "process_time", lambda: now[0])
    clock = peer.make_clock(SimpleNamespace(callbacks=SimpleNamespace(Callback=object)), 10, 0.4)
    clock.model = SimpleNamespace(optimizer=SimpleNamespace(), stop_training=False)
    clock.on_train_begin()
    rates, stopped = [], []
    for spent in (0.0, 5.0, 9.0, 12.0):
        now[0] = 100.0 + spent
        clock.on_train_batch_end(0)
        rates.append(clock.model.optimizer.learning_rate)
        stopped.append(clock.model.stop_training)
    assert rates == pytest.approx([0.4, 0.2, 0.2 * (1 + math.cos(0.9 * math.pi)), 0.0])
    assert stopped == [False, False, False, True] and clock.steps == 4
