"""Calibration as the end of a training: what it does to the model, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from biased_model import biased_config, biased_model, finished_scales
from process_group import run_processes
from two_things import NAME, forget_two_things, two_things_options, write_two_things

from cops import calibrate
from cops.calibrate import build_finish_function, make_set, run_network
from cops.modeling.calibration import Balance, apply_balance, find_balance
from panoptic_common.data.catalog import class_table, register_panoptic
from panoptic_common.data.sampling import sample_records
from panoptic_common.inference.predictor import Predictor


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    write_two_things(tmp_path)
    register_panoptic(*two_things_options(tmp_path)[1:])
    yield tmp_path
    forget_two_things()


def test_a_model_that_leans_towards_cutting_is_put_right(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[Balance, float] = {}
    table = calibrate.balance_table
    monkeypatch.setattr(
        calibrate, "balance_table", lambda best, tried: seen.update(tried) or table(best, tried)
    )
    model = biased_model().train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    finish = build_finish_function(biased_config())
    assert finish is not None
    finish(model)
    assert model.training
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, weights[n])}
    assert "cost_scale.edge_offset" in changed
    assert changed <= {"cost_scale.edge_offset", "cost_scale.edge_scale"}
    predictor = Predictor(biased_config(), model, class_table(NAME))
    images = [run_network(predictor, record) for record in sample_records(NAME, 2, 10**6)]
    after = make_set(model, images).quality(Balance())
    assert seen[Balance()] < 0.7 and after > 0.95


def test_it_is_the_balance_that_the_program_finds(root: Path) -> None:
    finished, by_hand = biased_model(), biased_model()
    finish = build_finish_function(biased_config())
    assert finish is not None
    finish(finished)
    predictor = Predictor(biased_config(), by_hand, class_table(NAME))
    images = [run_network(predictor, record) for record in sample_records(NAME, 2, 10**6)]
    best, _ = find_balance(make_set(by_hand, images).quality)
    apply_balance(by_hand.cost_scale, best, by_hand.distances)
    for name, value in by_hand.cost_scale.named_parameters():
        assert torch.equal(finished.cost_scale.get_parameter(name), value), name


def test_processes_share_the_images_and_find_one_balance(root: Path) -> None:
    """Three processes have an image, an image, and none."""
    alone = finished_scales(0, 1, root)
    register_panoptic(*two_things_options(root)[1:])  # for the fixture to forget
    for count in (2, 3):
        together = run_processes(count, root / f"gloo{count}", finished_scales, root)
        for found in together:
            assert found.keys() == alone.keys()
            for name, value in alone.items():
                assert torch.equal(found[name], value), (count, name)


def test_a_config_that_wants_none_gets_none() -> None:
    assert build_finish_function(biased_config(IMAGES=0)) is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"IMAGES": -1}, "IMAGES is -1"),
        ({"MAX_PIXELS": 0}, "MAX_PIXELS is 0"),
        ({"MAX_PIXELS": 100}, r"of at most 100 pixels .*: raise MODEL\.COPS\.CALIBRATION\.MAX_P"),
    ],
)
def test_what_cannot_be_is_refused_before_the_training(
    root: Path, changes: dict[str, int], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        build_finish_function(biased_config(**changes))


def test_models_that_were_not_calibrated_do_not_compete(root: Path) -> None:
    cfg = biased_config()
    cfg.TEST.BEST_METRIC = "panoptic_seg/PQ"
    with pytest.raises(ValueError, match=r"TEST\.BEST_METRIC.*calibrate_cops\.py"):
        build_finish_function(cfg)
