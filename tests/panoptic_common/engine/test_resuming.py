"""Runs that are stopped and resumed: the same bits, and what their folders keep and tell."""

from __future__ import annotations

import json
import math

import pytest
import torch
from dataset_factory import CATEGORIES
from tiny_runs import assert_identical, final_state, train
from tiny_system import TinyTrainer, tiny_config

from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.config import load_config
from panoptic_common.engine.resuming import config_differences, cut_metrics


@pytest.mark.parametrize(
    "opts",
    [
        (),
        ("SOLVER.OPTIMIZER", "ADAMW", "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"),
        ("SOLVER.AMP.ENABLED", True, "DATALOADER.NUM_WORKERS", 1),
        ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"),
    ],
    ids=["sgd", "adamw", "amp", "clipping"],
)
def test_resumed_run_ends_in_the_same_bits(tiny_root, opts):
    whole = tiny_config(tiny_root / "whole", *opts)
    train(whole)
    parts = tiny_config(tiny_root / "parts", *opts)
    train(parts, until=7)  # the last checkpoint is that of iteration 3
    resumed = train(parts, resume=True, until=9)
    assert resumed.start_iter == 4
    assert train(parts, resume=True).start_iter == 8
    a, b = final_state(whole), final_state(parts)
    assert a["iteration"] == 11
    for key in ("model", "optimizer", "scheduler", "iteration", "seed", "class_table"):
        assert_identical(a[key], b[key], key)


def test_the_tiny_system_would_notice_other_random_numbers(tiny_root, monkeypatch):
    """Without seeding each step, the test above fails: it can fail."""
    cfgs = [tiny_config(tiny_root / name) for name in ("whole", "parts")]
    monkeypatch.setattr("panoptic_common.engine.hooks.SeedEveryStep.before_step", lambda self: None)
    train(cfgs[0])
    train(cfgs[1], until=7)
    train(cfgs[1], resume=True)
    a, b = (final_state(cfg)["model"] for cfg in cfgs)
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_finished_run_is_only_evaluated_again(tiny_root, caplog):
    cfg = tiny_config(tiny_root)
    first = train(cfg)
    again = train(cfg, resume=True)
    assert again.start_iter == 12 and again.checkpointer.model.steps_seen == []
    assert "Nothing is left to train: the checkpoint has 12 iterations" in caplog.text
    assert first._last_eval_results["panoptic_seg"] == again._last_eval_results["panoptic_seg"]


def test_longer_schedule_goes_on_from_the_final_model(tiny_root):
    train(tiny_config(tiny_root))
    longer = train(tiny_config(tiny_root, "SOLVER.MAX_ITER", 15), resume=True)
    assert longer.start_iter == 12 and len(longer.checkpointer.model.steps_seen) == 3


def test_drawn_seed_is_stored_and_used_again(tiny_root):
    cfg = tiny_config(tiny_root, "SEED", -1)
    first = train(cfg, until=7)
    assert first.seed >= 0
    resumed = train(cfg, resume=True)
    assert resumed.seed == first.seed
    named = tiny_config(tiny_root / "named", "SEED", first.seed)
    train(named)
    assert_identical(final_state(cfg)["model"], final_state(named)["model"])
    assert final_state(cfg)["seed"] == first.seed


def test_resume_reports_changed_settings(tiny_root, caplog):
    train(tiny_config(tiny_root), until=7)
    train(tiny_config(tiny_root, "SOLVER.IMS_PER_BATCH", 1, "SOLVER.GAMMA", 0.5), resume=True)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in caplog.text.splitlines()]
    assert ["SOLVER.IMS_PER_BATCH", "2", "1"] in rows and ["SOLVER.GAMMA", "0.1", "0.5"] in rows
    assert "INPUT.MIN_SIZE_TRAIN" not in caplog.text  # a tuple here, a list in the file


def test_a_new_run_in_a_used_folder_puts_the_earlier_one_aside(tiny_root, caplog):
    """It may even start from its weights; a kill and a resume never go on with the earlier run."""
    train(tiny_config(tiny_root))
    out = tiny_root / "out"
    told = (out / "metrics.json").read_bytes()
    names = sorted(path.name for path in out.glob("*.pth"))
    new = tiny_config(tiny_root, "MODEL.WEIGHTS", out / "model_final.pth", "SEED", 6)
    train(new, until=2)  # before its first checkpoint
    assert "What an earlier run left is now in" in caplog.text
    aside = out / "earlier.1"
    assert sorted(path.name for path in aside.glob("*.pth")) == names
    assert (aside / "last_checkpoint").read_text() == "model_final.pth"
    assert (aside / "metrics.json").read_bytes() == told
    again = tiny_config(tiny_root, "SEED", 6)
    assert train(again, resume=True).start_iter == 0
    assert final_state(again)["seed"] == 6 and not (out / "earlier.2").exists()
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    steps = [line["iteration"] for line in lines if "total_loss" in line]
    assert len(set(steps)) == len(steps)


def test_new_rates_and_decay_hold_from_the_first_resumed_step(tiny_root, monkeypatch):
    """Resumed at iteration 4, after the warm-up of 3; STEPS (8,) and GAMMA 0.1 end the run.

    Rates are BASE_LR until iteration 7, then a tenth. The momenta are those of the checkpoint.
    """
    train(tiny_config(tiny_root, "SOLVER.BIAS_LR_FACTOR", 2.0), until=7)
    stored = torch.load(tiny_root / "out/model_0000003.pth", weights_only=True)["optimizer"]
    changed = {"SOLVER.BASE_LR": 0.02, "SOLVER.WEIGHT_DECAY": 0.3, "SOLVER.MOMENTUM": 0.5}
    words = [word for pair in changed.items() for word in pair]
    trainer = TinyTrainer(tiny_config(tiny_root, *words, "SOLVER.BIAS_LR_FACTOR", 2.0))
    trainer.resume_or_load(resume=True)
    optimizer = trainer._trainer.optimizer
    assert_identical(optimizer.state_dict()["state"], stored["state"])
    seen = []

    def watch():
        decays = {group["weight_decay"] for group in optimizer.param_groups}
        momenta = {group["momentum"] for group in optimizer.param_groups}
        seen.append(([group["lr"] for group in optimizer.param_groups], decays, momenta))

    monkeypatch.setattr(trainer._hooks[-1], "before_step", watch)
    trainer.train()
    factors = [group["initial_lr"] / 0.02 for group in optimizer.param_groups]
    assert set(factors) == {1.0, 2.0}
    assert trainer.scheduler.base_lrs == [factor * 0.02 for factor in factors]
    assert len(seen) == 8
    for iteration, (rates, decays, momenta) in zip(range(4, 12), seen, strict=True):
        base = 0.02 if iteration < 8 else 0.002
        assert rates == pytest.approx([factor * base for factor in factors])
        assert 0.3 in decays and momenta == {0.5}


def test_resuming_with_another_kind_of_optimizer_is_refused(tiny_root):
    train(tiny_config(tiny_root), until=7)
    other = tiny_config(tiny_root, "SOLVER.OPTIMIZER", "ADAMW")
    with pytest.raises(
        CheckpointError, match="whose state ADAMW cannot use|does not fit this config"
    ):
        train(other, resume=True)


def test_resuming_with_another_optimizer_is_explained(tiny_root):
    train(tiny_config(tiny_root), until=7)
    other = tiny_config(tiny_root, "SOLVER.LR_MULTIPLIERS", "[['backbone.', 0.1]]")
    with pytest.raises(CheckpointError, match="optimizer of .* does not fit this config"):
        train(other, resume=True)


def test_fine_tuning_reports_another_class_table(tiny_root, caplog):
    train(tiny_config(tiny_root / "first"))
    weights = tiny_root / "first/out/model_final.pth"
    contents = torch.load(weights)
    contents["class_table"][0]["name"] = "pedestrian"
    torch.save(contents, weights)
    cfg = tiny_config(tiny_root / "second", "MODEL.WEIGHTS", weights)
    trainer = TinyTrainer(cfg)
    trainer.resume_or_load(resume=False)
    assert "class 0 is 'pedestrian' (thing) there, 'person' (thing) here" in caplog.text
    model = trainer.checkpointer.model
    assert torch.equal(model.backbone[0].weight, contents["model"]["backbone.0.weight"])
    assert not torch.equal(model.predictor.weight, contents["model"]["predictor.weight"])
    assert trainer.checkpointer.class_table[0]["name"] == CATEGORIES[1]["name"] == "person"


def test_metrics_are_cut_at_the_resumed_iteration(tmp_path):
    path = tmp_path / "metrics.json"
    cut_metrics(str(path), 3)  # nothing there: nothing to do
    lines = [json.dumps({"iteration": i, "x": math.nan}) for i in (0, 4, 2, 3)]
    path.write_text("\n".join(lines) + '\n{"iteration": 1, "lo')
    with open(path, "a") as writer:  # as the run has it open
        cut_metrics(str(path), 3)
        writer.write(lines[3] + "\n")
    kept = [json.loads(line)["iteration"] for line in path.read_text().splitlines()]
    assert kept == [0, 2, 3]


def test_a_removed_key_of_the_stored_config_is_no_difference() -> None:
    cfg = load_config("configs/unified/scenes/D2.yaml")
    stored = cfg.dump().replace(
        "SQUEEZE_EXCITATION:", "SQUEEZE_REDUCTION: 16\n    SQUEEZE_EXCITATION:"
    )
    assert "SQUEEZE_REDUCTION" in stored
    assert config_differences(stored, cfg) == []
    other = load_config("configs/unified/scenes/D2.yaml", {"SOLVER.BASE_LR": 0.5})
    assert [key for key, *_ in config_differences(stored, other)] == ["SOLVER.BASE_LR"]
