"""tools/studies/solver_steps.py: steps along gradients, and what is measured after them."""

from __future__ import annotations

import json
import math

import pytest
import torch
from cops_factory import make_image, perfect_maps, tiny_model
from project import ROOT

from cops.modeling.meta_arch import Maps
from panoptic_tools.studies import solver_steps
from panoptic_tools.studies.library import steps

SURROGATE = {"MODEL.COPS.TRAINING": "surrogate"}


def test_a_step_is_the_first_one_of_adam():
    """Two batches whose gradients are (3, 2) and (1, -2): m = (2, 0), v = (5, 4)."""
    model = torch.nn.Linear(2, 1, bias=False)
    batches = [torch.tensor([3.0, 2.0]), torch.tensor([1.0, -2.0])]
    (step,) = steps.adam_step(model, batches, lambda m, x: (m.weight * x).sum(), seed=0)
    assert step.tolist() == [[pytest.approx(-2 / math.sqrt(5)), 0.0]]


def test_a_weight_without_gradient_stays():
    model = torch.nn.ModuleList([torch.nn.Linear(1, 1, bias=False) for _ in range(2)])
    used, unused = steps.adam_step(model, [None], lambda m, _: m[0].weight.sum(), seed=0)
    assert used.item() == -1 and unused.item() == 0


def test_agreement_is_the_cosine_of_the_means():
    """Means (1, 0) and (1, 1): 1 / sqrt(2). A set agrees with itself, and not with its opposite."""
    model = torch.nn.Linear(2, 1, bias=False)
    first = [torch.tensor([3.0, 2.0]), torch.tensor([-1.0, -2.0])]
    second = [torch.tensor([1.0, 1.0])]

    def loss(network, x):
        return (network.weight * x).sum()

    assert steps.agreement(model, first, second, loss, 0) == pytest.approx(1 / math.sqrt(2))
    assert steps.agreement(model, first, first, loss, 0) == pytest.approx(1)
    opposite = [-x for x in second]
    assert steps.agreement(model, second, opposite, loss, 0) == pytest.approx(-1)


def test_a_random_step_is_as_long():
    like = [torch.tensor([3.0, 4.0]), torch.zeros(2, 2), torch.tensor([0.5])]
    first, again, other = (steps.random_step(like, seed) for seed in (0, 0, 1))
    assert [x.norm().item() for x in first] == pytest.approx([5, 0, 0.5])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_weights_move_inside_only():
    model = torch.nn.Linear(3, 2)
    before = [p.detach().clone() for p in model.parameters()]
    change = [torch.ones_like(p) for p in before]
    with pytest.raises(KeyError), steps.stepped(model, change, 0.1):
        moved = [p.detach().clone() for p in model.parameters()]
        raise KeyError
    assert all(torch.allclose(b + 0.1, m) for b, m in zip(before, moved, strict=True))
    assert all(torch.equal(b, p) for b, p in zip(before, model.parameters(), strict=True))


def test_the_truth_as_costs_has_full_quality(monkeypatch):
    model = tiny_model(SURROGATE).train()
    batch = [make_image(seed, things=2) for seed in range(2)]
    found = [perfect_maps(image["cops_target"], 5) for image in batch]
    classes, edges = (torch.stack(maps) for maps in zip(*found, strict=True))
    monkeypatch.setattr(model, "predict_maps", lambda _: Maps(classes, edges, -classes, -edges))
    standing = steps.standing(model, [batch])
    assert standing.quality == standing.things == 100
    # Cells of the border region of sigma make it less: things here have 9 cells.
    assert 0 < standing.surrogate <= 100 and standing.pretraining < 0.01


def test_edges_move_by_the_constant():
    model = tiny_model(SURROGATE)
    logits = torch.randn(1, 6, 3, 4)
    before = model.cost_scale.edge_costs(logits)
    with steps.edges_moved(model, 0.5):
        assert torch.allclose(model.cost_scale.edge_costs(logits), before + 0.5)
    assert torch.equal(model.cost_scale.edge_costs(logits), before)


def test_following_the_pretraining_losses_lowers_them():
    model = tiny_model(SURROGATE).train()
    own, others = ([[make_image(seed)] for seed in seeds] for seeds in ((0, 1), (2, 3)))
    start, *figures = solver_steps.follow(model, own, others, rates=[0.001], seed=0)
    assert start["direction"] == "start" and start["own"]["pretraining"] > 0
    by_direction = {figure["direction"]: figure for figure in figures}
    assert set(by_direction) == {*steps.LOSSES, steps.RANDOM}
    assert by_direction["pre-training"]["own"]["pretraining"] < 0
    table = solver_steps.as_markdown([*figures, *figures], "pretraining")
    change = by_direction["pre-training"]["own"]["pretraining"]
    assert f"{change:+.2f} ({change:+.2f} to {change:+.2f})" in table


def test_program(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    small = ["DATASETS.SCENES.NUM_TRAIN", "4", "DATASETS.SCENES.HEIGHT", "64"]
    small += ["DATASETS.SCENES.WIDTH", "96", "INPUT.MIN_SIZE_TRAIN", "(64,)"]
    small += ["SOLVER.IMS_PER_BATCH", "2", "MODEL.WEIGHTS", ""]
    config = ["--config-file", str(ROOT / "configs/cops/scenes/full.yaml")]
    output = tmp_path / "figures.json"
    chosen = ["--batches", "2", "--rates", "0.001", "--edge-offsets", "0", "1"]
    chosen.append("--agreement")
    assert solver_steps.main([*config, *chosen, "--json", str(output), "--", *small]) == 0
    text = capsys.readouterr().out
    assert text.count("2 batches, seeds 0;") == 2 and "| change of quality " in text
    written = json.loads(output.read_text())
    assert text.count("cosine of the gradients of the two sets, ") == 2 * len(steps.LOSSES)
    assert len(written) == 2 * (1 + 3 + 2) and {figure["edge_offset"] for figure in written} == {
        0,
        1,
    }


def test_without_rates_the_network_is_measured_as_it_is(monkeypatch):
    monkeypatch.setattr(solver_steps, "adam_step", None)  # no gradient is taken
    model = tiny_model(SURROGATE).train()
    own, others = ([[make_image(seed)]] for seed in (0, 1))
    figures = solver_steps.follow(model, own, others, rates=[], seed=0)
    assert [figure["direction"] for figure in figures] == ["start"]
    assert figures[0]["own"] == steps.standing(model, own)._asdict()
    text = solver_steps.describe([{"seed": 0, **figures[0]}], 0.0, 1)
    assert text.count("quality") == 2 and "|" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-file", "configs/cops/scenes/pretrain.yaml"], 'give a config with "surrogate"'),
        (["--config-file", "configs/cops/scenes/full.yaml", "--batches", "1"], "--batches"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        solver_steps.main([arguments[0], str(ROOT / arguments[1]), *arguments[2:]])
    assert error.value.code == 2
    assert message in capsys.readouterr().err
