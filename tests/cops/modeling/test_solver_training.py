"""Losses through the solver: padding, thresholds on the grid, and what is logged."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch
from cops_factory import C, make_image, tiny_config, tiny_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from cops.layers.amwc import AmwcLayer
from cops.layers.amwc_labels import AmwcLabelsLayer
from cops.losses.panoptic_quality import (
    PanopticQualityLoss,
    smooth_panoptic_quality,
    soft_keep,
)
from cops.losses.separate import SeparateLosses
from cops.modeling.solver_training import SolverTraining, area_limits_on_grid

SURROGATE = {C + "TRAINING": "surrogate", C + "BACKWARD.SAMPLES": 2}


def test_padding_changes_no_gradient_of_the_solver():
    """A small image beside a larger one is solved as it is alone."""
    model = tiny_model(SURROGATE).eval()  # batch norm would mix the images
    image = make_image(0, (32, 32))
    costs = torch.randn(1, 5, 8, 8), torch.randn(1, 6, 8, 8)
    padded = [torch.nn.functional.pad(c, (0, 4, 0, 3), value=3.0) for c in costs]
    gradients = []
    for tensors in (costs, padded):
        leaves = [t.clone().requires_grad_() for t in tensors]
        masks = model.amwc(*leaves, [image["cops_target"]], torch.Generator().manual_seed(0))
        model.solver_loss(masks, [image["cops_target"]])[0].backward()
        gradients.append([leaf.grad[..., :8, :8] for leaf in leaves])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


def test_area_limits_shrink_with_the_grid():
    # 200 / 16 and 2048 / 16 pixels.
    assert area_limits_on_grid((True, False), 200, 2048) == (12.5, 128.0)


def test_area_limits_grow_with_the_images():
    """Of images enlarged by 1.5, 16 pixels are 36 pixels of the network's input: 2.25 cells."""
    limits = {C + "INFERENCE.THING_AREA_LIMIT": 16, C + "INFERENCE.STUFF_AREA_LIMIT": 64}
    for scale, expected in ((0.0, (4.0, 1.0)), (1.0, (4.0, 1.0)), (1.5, (9.0, 2.25))):
        cfg = tiny_config({**SURROGATE, **limits, "INPUT.TEST_SCALE": scale})
        assert tuple(SolverTraining(cfg).loss.area_limits[:2].tolist()) == expected


@pytest.mark.parametrize(
    ("unit", "keep"),
    [
        # Things below 200 pixels are rejected. One cell has 16 pixels.
        ("pixel", 1 / (1 + math.exp(0.1 * (200 - 16)))),  # 1e-8
        ("authors", 1 / (1 + math.exp(0.1 * (50 - 1)))),  # 0.007
        ("cell", 1 / (1 + math.exp(0.1 * (12.5 - 1)))),  # 0.24: hardly a rejection
    ],
)
def test_how_much_of_one_cell_is_kept(unit, keep):
    limits = {C + "INFERENCE.THING_AREA_LIMIT": 200, C + "INFERENCE.STUFF_AREA_LIMIT": 2048}
    loss = SolverTraining(tiny_config({**SURROGATE, **limits, C + "LOSS.AREA_UNIT": unit})).loss
    found = soft_keep(torch.tensor(1.0), loss.area_limits[1], loss.area_slope)
    assert float(found) == pytest.approx(keep, rel=1e-4)


def test_a_steeper_sigma_rejects_what_the_map_drops():
    # Limits of 9 cells, as on nuclei: 16 pixels enlarged by 1.5 on a grid of stride 2.
    limits = {C + "INFERENCE.THING_AREA_LIMIT": 9 * 16, C + "LOSS.AREA_SLOPE": 1.0}
    loss = SolverTraining(tiny_config({**SURROGATE, **limits})).loss
    assert float(loss.area_limits[1]) == 9
    found = soft_keep(torch.tensor([1.0, 9.0, 17.0]), loss.area_limits[1], loss.area_slope)
    assert found.tolist() == pytest.approx([1 / (1 + math.exp(8)), 0.5, 1 / (1 + math.exp(-8))])


def test_an_unknown_unit_is_refused():
    with pytest.raises(ValueError, match="AREA_UNIT is 'mile'"):
        SolverTraining(tiny_config({**SURROGATE, C + "LOSS.AREA_UNIT": "mile"}))


@pytest.mark.parametrize(("processes", "threads"), [(1, 6), (4, 1), (16, 1)])
def test_processes_of_a_machine_share_its_cores(monkeypatch, processes, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(comm, "get_local_size", lambda: processes)
    built = SolverTraining(tiny_config({**SURROGATE, C + "SOLVER.THREADS": 0}))
    assert built.amwc.settings.num_threads == threads
    built = SolverTraining(tiny_config({**SURROGATE, C + "SOLVER.THREADS": 3}))
    assert built.amwc.settings.num_threads == 3


@pytest.mark.parametrize(
    ("training", "layer", "loss"),
    [
        ("surrogate", AmwcLayer, PanopticQualityLoss),
        ("separate", AmwcLabelsLayer, SeparateLosses),
    ],
)
def test_each_training_has_its_layer_and_loss(training, layer, loss):
    built = SolverTraining(tiny_config({C + "TRAINING": training, C + "LOSS.WEIGHT": 3.0}))
    assert type(built.amwc) is layer and type(built.loss) is loss
    assert built.loss.weight == 3.0 and not list(built.parameters())


def test_what_is_logged_is_what_the_loss_says(monkeypatch):
    """The figures are read from the device in one piece; each must land under its name."""
    training = SolverTraining(tiny_config({**SURROGATE, C + "LOSS.COST_DROPOUT": 0.0}))
    image = make_image(0)
    generator = torch.Generator().manual_seed(0)
    costs = torch.randn(1, 5, 12, 16, generator=generator), torch.ones(1, 6, 12, 16)
    reads = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: reads.append(1) or tolist(x))
    with EventStorage() as storage:
        losses = training(*costs, [image["cops_target"]])
        logged = {name: value for name, (value, _) in storage.latest().items()}
    assert len(reads) == 1
    masks = training.amwc(*costs, [image["cops_target"]], torch.Generator())
    loss, details = smooth_panoptic_quality(
        masks, [image["cops_target"]], training.loss.area_limits
    )
    assert float(losses["loss_panoptic_quality"]) == pytest.approx(10 * float(loss))
    assert logged["quality/surrogate"] == float(details.pq.nanmean())
    for name in ("true_positives", "false_positives", "false_negatives"):
        assert logged[f"quality/{name}"] == pytest.approx(float(getattr(details, name).sum()))
    assert logged["quality/true_positives"] != logged["quality/false_positives"]
    assert np.isfinite(logged["quality/true"])
