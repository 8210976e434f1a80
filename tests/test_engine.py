"""The training loop: batches, seeds, optimizers, schedules, hooks, and resuming bit for bit.

Two data sets named "tiny" never live at once: a fixture registers it for one test.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
from pathlib import Path

import panoptic_common.compat  # noqa: F401  (before detectron2)

import numpy as np
import pytest
import torch
from dataset_factory import CATEGORIES
from detectron2.solver.build import get_default_optimizer_params, reduce_param_groups
from detectron2.utils.events import EventStorage
from tiny_system import TinyPanoptic, TinyTrainer, forget_tiny, register_tiny, tiny_config
from torch import nn

from panoptic_common import engine
from panoptic_common.checkpoint_files import CheckpointError
from panoptic_common.hooks import BEST_NAME
from panoptic_common.optimizer import build_optimizer, parameter_groups
from panoptic_common.train_loader import TrainLoader, sample_batches, scoped_seed


@pytest.fixture
def root(tmp_path):
    """A folder with the registered data set "tiny" of 5 pictures."""
    register_tiny(tmp_path)
    yield tmp_path
    forget_tiny()


def train(cfg, resume: bool = False, until: int | None = None) -> TinyTrainer:
    """Train; `until` stops before that iteration as a crash would."""
    trainer = TinyTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    if until is None:
        trainer.train()
        return trainer

    def crash():
        if trainer.iter == until:
            raise KeyboardInterrupt

    trainer._hooks[-1].before_step = crash
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    return trainer


def final_state(cfg) -> dict:
    return torch.load(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"), weights_only=True)


def assert_identical(a, b, where: str = "") -> None:
    """Equal bit for bit, through dicts and lists."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_identical(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_identical(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    else:
        assert a == b, where


# ---- batches ------------------------------------------------------------------------------------


def take(batches, count: int) -> list:
    iterator = iter(batches)
    return [next(iterator) for _ in range(count)]


def test_every_picture_once_an_epoch():
    samples = [sample for batch in take(sample_batches(7, 2, seed=3), 14) for sample in batch]
    assert [position for position, _ in samples] == list(range(28))
    epochs = [[index for _, index in samples[start : start + 7]] for start in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4  # each in an order of its own
    assert take(sample_batches(7, 2, seed=4), 14) != take(sample_batches(7, 2, seed=3), 14)


def test_batches_of_one_orientation():
    is_landscape = [True, False, False, True, True, False, True]
    batches = take(sample_batches(7, 3, seed=0, is_landscape=is_landscape), 70)
    assert all(len({is_landscape[index] for _, index in batch}) == 1 for batch in batches)
    # Nothing is lost or doubled: the first 7 * 29 positions are all among the first batches.
    positions = [position for batch in batches for position, _ in batch]
    assert len(set(positions)) == len(positions) == 210
    assert set(range(200)) <= set(positions)


def noisy_mapper(record: dict) -> dict:
    """Draws from all three generators, as augmentations do."""
    return {**record, "draws": (random.random(), np.random.rand(), torch.rand(()).item())}


def make_loader(**options) -> TrainLoader:
    records = [{"name": name} for name in "abcdefg"]
    return TrainLoader(records, noisy_mapper, **{"total_batch_size": 4, "seed": 1, **options})


def test_batch_is_a_function_of_seed_and_iteration():
    batches = take(make_loader(), 10)
    resumed = make_loader(seed=99)
    resumed.start_at(6, seed=1)
    assert take(resumed, 4) == batches[6:]
    assert take(make_loader(num_workers=2), 10) == batches
    assert take(make_loader(seed=2), 10) != batches
    shares = [take(make_loader(rank=rank, world_size=2), 10) for rank in range(2)]
    assert [a + b for a, b in zip(*shares, strict=True)] == batches
    draws = {sample["draws"] for batch in batches for sample in batch}
    assert len(draws) == 40  # no two samples share their augmentation


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loading_leaves_the_models_generators_alone(num_workers):
    """Also at its start, which a resumed run has at another iteration."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    expected = (random.random(), np.random.rand(), torch.rand(()).item())
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    take(make_loader(num_workers=num_workers), 2)
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected


def test_scoped_seed_restores_after_an_error():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with pytest.raises(ZeroDivisionError), scoped_seed(5):
        torch.rand(7)
        raise ZeroDivisionError
    assert torch.equal(torch.rand(2), expected)


def test_loader_refuses_what_it_cannot_share():
    with pytest.raises(ValueError, match="IMS_PER_BATCH is 4, which 3 processes cannot share"):
        make_loader(world_size=3)
    with pytest.raises(ValueError, match="no picture"):
        TrainLoader([], noisy_mapper, total_batch_size=1, seed=0)


# ---- optimizers ---------------------------------------------------------------------------------


class Net(nn.Module):
    """Convolution, norm layers of several kinds, and a layer that two names share."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4), nn.LayerNorm(4))
        self.shared = self.head[0]
        self.frozen = nn.Conv2d(4, 4, 1).requires_grad_(False)


def options_by_parameter(groups) -> dict[int, tuple[float, float]]:
    return {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}


@pytest.mark.parametrize(
    ("decay_norm", "decay_bias", "bias_factor"), [(0.0, None, 1.0), (0.3, 0.2, 2.0)]
)
def test_groups_are_detectron2s(decay_norm, decay_bias, bias_factor):
    model = Net()
    rules = dict(
        base_lr=0.1,
        weight_decay=0.01,
        weight_decay_norm=decay_norm,
        bias_lr_factor=bias_factor,
        weight_decay_bias=decay_bias,
    )
    theirs = reduce_param_groups(get_default_optimizer_params(model, **rules))
    ours = parameter_groups(model, **rules)
    assert options_by_parameter(ours) == options_by_parameter(theirs)
    assert len(ours) == len(theirs)


def test_learning_rate_by_prefix():
    model = Net()
    groups = parameter_groups(
        model,
        base_lr=1.0,
        weight_decay=0.5,
        weight_decay_norm=0.0,
        lr_multipliers=[("backbone.1", 0.5), ("backbone.", 0.1)],
    )
    found = options_by_parameter(groups)
    assert found[id(model.backbone[0].weight)] == (0.1, 0.5)
    assert found[id(model.backbone[1].weight)] == (0.5, 0.0)  # the first prefix that fits
    assert found[id(model.head[0].weight)] == (1.0, 0.5)
    assert id(model.frozen.weight) not in found and len(found) == 10
    with pytest.raises(ValueError, match=r"\['bakbone'\].*\['backbone', "):
        parameter_groups(model, base_lr=1.0, weight_decay=0.0, lr_multipliers=[("bakbone", 0.1)])


@pytest.mark.parametrize(
    ("clip_type", "expected"),
    [
        # Gradients (3, 4) and (12,): norms 5 and 12, together 13.
        ("value", ([2.0, 2.0], [2.0])),
        ("norm", ([3 * 2 / 5, 4 * 2 / 5], [2.0])),
        ("full_model", ([3 * 2 / 13, 4 * 2 / 13], [12 * 2 / 13])),
    ],
)
def test_gradient_clipping(root, clip_type, expected):
    cfg = tiny_config(
        root,
        *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", clip_type),
        *(
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
            2.0,
            "SOLVER.BASE_LR",
            1.0,
            "SOLVER.WEIGHT_DECAY",
            0.0,
        ),
    )
    model = nn.ParameterList([torch.zeros(2), torch.zeros(1)])
    optimizer = build_optimizer(cfg, model)
    model[0].grad, model[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])
    optimizer.step()
    for parameter, gradient in zip(model, expected, strict=True):
        torch.testing.assert_close(-parameter.detach(), torch.tensor(gradient))


def test_adamw_and_unknown_choices(root):
    optimizer = build_optimizer(tiny_config(root, "SOLVER.OPTIMIZER", "AdamW"), Net())
    assert isinstance(optimizer, torch.optim.AdamW)
    for key, value in [
        ("SOLVER.OPTIMIZER", "SDG"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "max"),
    ]:
        cfg = tiny_config(root, "SOLVER.CLIP_GRADIENTS.ENABLED", True, key, value)
        with pytest.raises(ValueError, match=value):
            build_optimizer(cfg, Net())


# ---- scaling to the number of workers -----------------------------------------------------------


def test_scaling_to_workers(root, caplog, monkeypatch):
    """16 pictures on 8 workers at rate 0.02; 2 workers take a quarter of it for 4 times as long."""
    cfg = tiny_config(
        root,
        *("SOLVER.REFERENCE_WORLD_SIZE", 8, "SOLVER.IMS_PER_BATCH", 16, "SOLVER.BASE_LR", 0.02),
        *("SOLVER.BASE_LR_END", 0.001, "SOLVER.MAX_ITER", 1000, "SOLVER.STEPS", "(600, 800)"),
        *("SOLVER.WARMUP_ITERS", 100, "SOLVER.CHECKPOINT_PERIOD", 50, "TEST.EVAL_PERIOD", 0),
    )
    monkeypatch.setattr(logging.getLogger("detectron2"), "propagate", True)
    with caplog.at_level(logging.INFO):
        scaled = engine.scale_to_workers(cfg, 2)
    assert "batch_size=4, learning_rate=0.005, max_iter=4000" in caplog.text
    assert cfg.SOLVER.IMS_PER_BATCH == 16  # not changed
    solver = scaled.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.BASE_LR_END) == (4, 0.005, 0.00025)
    assert (solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS) == (4000, (2400, 3200), 400)
    assert (solver.CHECKPOINT_PERIOD, scaled.TEST.EVAL_PERIOD) == (200, 0)
    many = engine.scale_to_workers(cfg, 800)
    assert many.SOLVER.CHECKPOINT_PERIOD == 1  # half an iteration is not "never"
    assert engine.scale_to_workers(cfg, 8) is cfg
    cfg.SOLVER.IMS_PER_BATCH = 12
    with pytest.raises(ValueError, match="no multiple of SOLVER.REFERENCE_WORLD_SIZE 8"):
        engine.scale_to_workers(cfg, 2)
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 0
    assert engine.scale_to_workers(cfg, 2) is cfg


# ---- training -----------------------------------------------------------------------------------


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
def test_resumed_run_ends_in_the_same_bits(root, opts):
    whole = tiny_config(root / "whole", *opts)
    train(whole)
    parts = tiny_config(root / "parts", *opts)
    train(parts, until=7)  # the last checkpoint is that of iteration 3
    resumed = train(parts, resume=True, until=9)
    assert resumed.start_iter == 4
    assert train(parts, resume=True).start_iter == 8
    a, b = final_state(whole), final_state(parts)
    assert a["iteration"] == 11
    for key in ("model", "optimizer", "scheduler", "iteration", "seed", "class_table"):
        assert_identical(a[key], b[key], key)


def test_the_tiny_system_would_notice_other_random_numbers(root, monkeypatch):
    """Without seeding each step, the test above fails: it can fail."""
    cfgs = [tiny_config(root / name) for name in ("whole", "parts")]
    monkeypatch.setattr("panoptic_common.hooks.SeedEveryStep.before_step", lambda self: None)
    train(cfgs[0])
    train(cfgs[1], until=7)
    train(cfgs[1], resume=True)
    a, b = (final_state(cfg)["model"] for cfg in cfgs)
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_evaluation_and_pictures_do_not_change_the_training(root):
    plain = tiny_config(root / "plain")
    watched = tiny_config(root / "watched", "TEST.EVAL_PERIOD", 3, "VIS_PERIOD", 2)
    train(plain)
    train(watched)
    assert_identical(final_state(plain)["model"], final_state(watched)["model"])


def test_number_of_loader_processes_does_not_change_the_training(root):
    cfgs = [tiny_config(root / str(n), "DATALOADER.NUM_WORKERS", n) for n in (0, 2)]
    for cfg in cfgs:
        train(cfg)
    assert_identical(final_state(cfgs[0])["model"], final_state(cfgs[1])["model"])


def test_training_learns_and_reports(root):
    cfg = tiny_config(root, "SOLVER.MAX_ITER", 60, "SOLVER.STEPS", "(50,)", "TEST.EVAL_PERIOD", 20)
    trainer = TinyTrainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    assert results["sem_seg"]["mIoU"] > 20 and 0 <= results["panoptic_seg"]["PQ"] <= 100
    lines = [json.loads(line) for line in (root / "out/metrics.json").read_text().splitlines()]
    losses = {line["iteration"]: line["total_loss"] for line in lines if "total_loss" in line}
    assert losses[59] < losses[19] and {"lr", "eta_seconds"} <= lines[0].keys()
    assert list((root / "out").glob("events.out.tfevents.*"))
    assert sum("sem_seg/mIoU" in line for line in lines) == 3


def test_pictures_reach_tensorboard(root):
    trainer = TinyTrainer(tiny_config(root, "VIS_PERIOD", 4))
    hook = next(h for h in trainer._hooks if type(h).__name__ == "PredictionPictures")
    with EventStorage(0) as storage:
        hook.show(storage)
    names = [name for name, _, _ in storage._vis_data]
    assert names == ["prediction/0", "prediction/1", "prediction/2"]
    picture = storage._vis_data[0][1]
    assert picture.shape == (3, 48, 64) and picture.dtype == np.uint8
    assert trainer.model.training


def test_amp_runs_in_bfloat16_on_the_cpu(root, monkeypatch):
    seen = []
    original = TinyPanoptic._scores

    def spy(self, images):
        scores = original(self, images)
        seen.append((self.predictor(torch.zeros(1, 16, 2, 2)).dtype, self.predictor.weight.dtype))
        return scores

    monkeypatch.setattr(TinyPanoptic, "_scores", spy)
    train(tiny_config(root, "SOLVER.AMP.ENABLED", True, "SOLVER.MAX_ITER", 2, "DATASETS.TEST", ()))
    assert set(seen) == {(torch.bfloat16, torch.float32)}


def test_cosine_schedule_ends_at_its_end(root):
    cfg = tiny_config(
        root,
        *("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", 0.01),
        *("SOLVER.WARMUP_ITERS", 0),
    )
    trainer = train(cfg)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    # Half-way: (0.05 + 0.01) / 2.
    middle = trainer.scheduler._multiplier(0.5) * 0.05
    assert middle == pytest.approx(0.03)


def test_loss_that_is_not_finite_stops_the_run(root):
    cfg = tiny_config(root, "SOLVER.BASE_LR", 1e30, "SOLVER.WARMUP_ITERS", 0)
    with pytest.raises(FloatingPointError, match="infinite or NaN"):
        train(cfg)


def test_sampler_that_cannot_resume_is_refused(root):
    cfg = tiny_config(root, "DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler")
    with pytest.raises(ValueError, match="TrainingSampler"):
        TinyTrainer(cfg)


def test_damaged_picture_is_named(root):
    for path in (root / "panoptic_tiny").glob("*.png"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"panoptic_tiny.*\.png"):
        train(tiny_config(root))


# ---- checkpoints of a run -----------------------------------------------------------------------


def test_old_checkpoints_are_deleted_across_resumes(root):
    cfg = tiny_config(
        root, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.CHECKPOINT_KEEP", 2, "DATASETS.TEST", ()
    )
    train(cfg, until=5)
    train(cfg, resume=True, until=8)
    names = sorted(path.name for path in (root / "out").glob("*.pth"))
    assert names == ["model_0000005.pth", "model_0000007.pth"]
    assert (root / "out/last_checkpoint").read_text() == "model_0000007.pth"


def test_finished_run_is_only_evaluated_again(root):
    cfg = tiny_config(root)
    first = train(cfg)
    again = train(cfg, resume=True)
    assert again.start_iter == 12 and again.checkpointer.model.steps_seen == []
    assert first._last_eval_results["panoptic_seg"] == again._last_eval_results["panoptic_seg"]


def test_longer_schedule_goes_on_from_the_final_model(root):
    train(tiny_config(root))
    longer = train(tiny_config(root, "SOLVER.MAX_ITER", 15), resume=True)
    assert longer.start_iter == 12 and len(longer.checkpointer.model.steps_seen) == 3


def test_best_model_is_kept_across_resumes(root, monkeypatch):
    """PQ 30, 50, [resume] 40, 45: the best is that of iteration 3, and stays."""
    values = iter([30.0, 50.0, 40.0, 45.0])
    monkeypatch.setattr(
        TinyTrainer, "test", classmethod(lambda *_: {"panoptic_seg": {"PQ": next(values)}})
    )
    cfg = tiny_config(
        root,
        *("TEST.EVAL_PERIOD", 2, "SOLVER.MAX_ITER", 8, "SOLVER.CHECKPOINT_PERIOD", 2),
    )
    cfg.TEST.BEST_METRIC = "panoptic_seg/PQ"
    train(cfg, until=5)
    assert (root / "out/last_checkpoint").read_text() == "model_0000003.pth"
    train(cfg, resume=True)
    best = torch.load(root / f"out/{BEST_NAME}.pth", weights_only=True)
    assert (best["iteration"], best["value"]) == (3, 50.0)


def test_drawn_seed_is_stored_and_used_again(root):
    cfg = tiny_config(root, "SEED", -1)
    first = train(cfg, until=7)
    assert first.seed >= 0
    resumed = train(cfg, resume=True)
    assert resumed.seed == first.seed
    named = tiny_config(root / "named", "SEED", first.seed)
    train(named)
    assert_identical(final_state(cfg)["model"], final_state(named)["model"])
    assert final_state(cfg)["seed"] == first.seed


def test_resume_reports_changed_settings(root, caplog):
    train(tiny_config(root), until=7)
    train(tiny_config(root, "SOLVER.IMS_PER_BATCH", 1, "SOLVER.GAMMA", 0.5), resume=True)
    assert "SOLVER.IMS_PER_BATCH 2 -> 1" in caplog.text and "SOLVER.GAMMA 0.1 -> 0.5" in caplog.text
    assert "INPUT.MIN_SIZE_TRAIN" not in caplog.text  # a tuple here, a list in the file


def test_new_run_in_a_used_folder_warns(root, caplog):
    train(tiny_config(root), until=7)
    TinyTrainer(tiny_config(root)).resume_or_load(resume=False)
    assert "which this one will overwrite" in caplog.text


def test_resuming_with_another_optimizer_is_explained(root):
    train(tiny_config(root), until=7)
    other = tiny_config(root, "SOLVER.LR_MULTIPLIERS", "[['backbone.', 0.1]]")
    with pytest.raises(CheckpointError, match="optimizer of .* does not fit this config"):
        train(other, resume=True)


def test_fine_tuning_reports_another_class_table(root, caplog):
    train(tiny_config(root / "first"))
    weights = root / "first/out/model_final.pth"
    contents = torch.load(weights)
    contents["class_table"][0]["name"] = "pedestrian"
    torch.save(contents, weights)
    cfg = tiny_config(root / "second", "MODEL.WEIGHTS", weights)
    trainer = TinyTrainer(cfg)
    trainer.resume_or_load(resume=False)
    assert "class 0 is 'pedestrian' (thing) there, 'person' (thing) here" in caplog.text
    model = trainer.checkpointer.model
    assert torch.equal(model.backbone[0].weight, contents["model"]["backbone.0.weight"])
    assert not torch.equal(model.predictor.weight, contents["model"]["predictor.weight"])
    assert trainer.checkpointer.class_table[0]["name"] == CATEGORIES[1]["name"] == "person"


# ---- small parts --------------------------------------------------------------------------------


def test_metrics_are_cut_at_the_resumed_iteration(tmp_path):
    path = tmp_path / "metrics.json"
    engine.cut_metrics(str(path), 3)  # nothing there: nothing to do
    lines = [json.dumps({"iteration": i, "x": math.nan}) for i in (0, 4, 2, 3)]
    path.write_text("\n".join(lines) + '\n{"iteration": 1, "lo')
    with open(path, "a") as writer:  # as the run has it open
        engine.cut_metrics(str(path), 3)
        writer.write(lines[3] + "\n")
    kept = [json.loads(line)["iteration"] for line in path.read_text().splitlines()]
    assert kept == [0, 2, 3]


def test_cpu_is_used_without_a_gpu(root, monkeypatch):
    cfg = tiny_config(root, "MODEL.DEVICE", "cuda")
    cfg.freeze()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert engine.use_cpu_without_cuda(cfg) and cfg.MODEL.DEVICE == "cpu" and cfg.is_frozen()
    assert not engine.use_cpu_without_cuda(cfg)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = tiny_config(Path(root), "MODEL.DEVICE", "cuda")
    assert not engine.use_cpu_without_cuda(cfg) and cfg.MODEL.DEVICE == "cuda"
