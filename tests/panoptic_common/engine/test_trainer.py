"""The training loop: schedules, and what it reports or refuses."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal

import pytest
import torch
from programs import read_strictly, run_program
from tiny_runs import assert_identical, final_state, train
from tiny_system import TinyPanoptic, TinyTrainer, tiny_config

from panoptic_common.engine.training_run import read_metrics


def test_evaluation_and_images_do_not_change_the_training(tiny_root):
    plain = tiny_config(tiny_root / "plain")
    watched = tiny_config(tiny_root / "watched", "TEST.EVAL_PERIOD", 3, "VIS_PERIOD", 2)
    train(plain)
    train(watched)
    assert_identical(final_state(plain)["model"], final_state(watched)["model"])


def test_number_of_loader_processes_does_not_change_the_training(tiny_root):
    cfgs = [tiny_config(tiny_root / str(n), "DATALOADER.NUM_WORKERS", n) for n in (0, 2)]
    for cfg in cfgs:
        train(cfg)
    assert_identical(final_state(cfgs[0])["model"], final_state(cfgs[1])["model"])


def test_training_learns_and_reports(tiny_root):
    cfg = tiny_config(
        tiny_root, "SOLVER.MAX_ITER", 60, "SOLVER.STEPS", "(50,)", "TEST.EVAL_PERIOD", 20
    )
    trainer = TinyTrainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    assert results["sem_seg"]["mIoU"] > 20 and 0 <= results["panoptic_seg"]["PQ"] <= 100
    lines = [json.loads(line) for line in (tiny_root / "out/metrics.json").read_text().splitlines()]
    losses = {line["iteration"]: line["total_loss"] for line in lines if "total_loss" in line}
    assert losses[59] < losses[19] and {"lr", "eta_seconds"} <= lines[0].keys()
    assert list((tiny_root / "out").glob("events.out.tfevents.*"))
    assert sum("sem_seg/mIoU" in line for line in lines) == 3


def test_all_that_a_run_writes_as_json_is_json(tiny_root):
    """Boxes and a class that no image holds have no AP and no PQ: null, not the word NaN."""
    path = tiny_root / "panoptic_tiny.json"
    data = json.loads(path.read_text())
    data["categories"].append({"id": 99, "name": "unicorn", "isthing": 1})
    path.write_text(json.dumps(data))
    train(tiny_config(tiny_root, "SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 2))
    files = list((tiny_root / "out").rglob("*.json"))
    assert {"metrics.json", "predictions.json"} <= {file.name for file in files}
    for file in files:
        text = file.read_text()
        for part in text.splitlines() if file.name == "metrics.json" else [text]:
            read_strictly(part)
    lines = read_metrics(tiny_root / "out/metrics.json")
    assert math.isnan(
        next(line for line in lines if "panoptic_seg/PQ" in line)["panoptic_seg/PQ-unicorn"]
    )


def test_amp_runs_in_bfloat16_on_the_cpu(tiny_root, monkeypatch):
    seen = []
    original = TinyPanoptic._scores

    def spy(self, images):
        scores = original(self, images)
        seen.append((self.predictor(torch.zeros(1, 16, 2, 2)).dtype, self.predictor.weight.dtype))
        return scores

    monkeypatch.setattr(TinyPanoptic, "_scores", spy)
    train(
        tiny_config(
            tiny_root, "SOLVER.AMP.ENABLED", True, "SOLVER.MAX_ITER", 2, "DATASETS.TEST", ()
        )
    )
    assert set(seen) == {(torch.bfloat16, torch.float32)}


def test_weights_lie_channels_last_on_a_cpu(tiny_root):
    trainer = train(tiny_config(tiny_root, "SOLVER.MAX_ITER", 2, "DATASETS.TEST", ()))
    weights = [p for p in trainer.model.parameters() if p.ndim == 4]
    assert weights
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


def test_cosine_schedule_ends_at_its_end(tiny_root):
    cfg = tiny_config(
        tiny_root,
        *("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", 0.01),
        *("SOLVER.WARMUP_ITERS", 0),
    )
    trainer = train(cfg)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    # Half-way: (0.05 + 0.01) / 2.
    middle = trainer.scheduler._multiplier(0.5) * 0.05
    assert middle == pytest.approx(0.03)


def test_loss_that_is_not_finite_stops_the_run(tiny_root):
    cfg = tiny_config(tiny_root, "SOLVER.BASE_LR", 1e30, "SOLVER.WARMUP_ITERS", 0)
    with pytest.raises(FloatingPointError, match=r"iteration \d+ with the images .*not finite"):
        train(cfg)


def test_sampler_that_cannot_resume_is_refused(tiny_root):
    cfg = tiny_config(tiny_root, "DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler")
    with pytest.raises(ValueError, match="TrainingSampler"):
        TinyTrainer(cfg)


def test_damaged_image_is_named(tiny_root):
    for path in (tiny_root / "panoptic_tiny").glob("*.png"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"panoptic_tiny.*\.png"):
        train(tiny_config(tiny_root))


def test_workers_of_an_evaluation_leave_signals_to_it(tiny_root):
    """A terminal sends Ctrl-C to all of them."""
    cfg = tiny_config(tiny_root, "DATALOADER.NUM_WORKERS", 1)
    others = set(multiprocessing.active_children())
    batches = iter(TinyTrainer.build_test_loader(cfg, "tiny"))
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - others
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    assert len(list(batches)) == 4


HELD = """
from torch.utils.data import DataLoader
from panoptic_common.processes.stopping import end_workers_at_exit, leave_signals_to_the_parent
end_workers_at_exit()
batches = iter(DataLoader(range(9), num_workers=1, worker_init_fn=leave_signals_to_the_parent))
next(batches)
raise RuntimeError("an error that nobody expects")
"""


def test_a_program_that_fails_does_not_wait_for_its_workers():
    done = run_program("-c", HELD)  # TimeoutExpired after 120 s, if it does
    assert done.returncode == 1 and "nobody expects" in done.stderr
