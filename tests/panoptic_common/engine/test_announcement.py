"""What a run says of itself before it begins."""

from __future__ import annotations

from tiny_system import TinyTrainer, tiny_config

from panoptic_common.engine.announcement import announce


def test_the_schedule_is_told_as_it_is_scaled(tiny_root):
    """5 iterations of 8 images for 8 processes: 40 of 1 image for one, 8 epochs of 5 images."""
    asked = tiny_config(
        tiny_root,
        *("SOLVER.REFERENCE_WORLD_SIZE", 8, "SOLVER.IMS_PER_BATCH", 8, "SOLVER.MAX_ITER", 5),
        *("SOLVER.BASE_LR", 0.04, "SOLVER.STEPS", "(4,)", "TEST.EVAL_PERIOD", 2),
        *("TEST.BEST_METRIC", "panoptic_seg/PQ", "MODEL.WEIGHTS", "start.pth"),
    )
    trainer = TinyTrainer(asked)
    lines = dict(line.split("  ", 1) for line in trainer._announcement().splitlines())
    told = {key: text.strip() for key, text in lines.items()}
    scaled = "scaled from 8 processes"
    assert told["train on"] == "tiny: 5 images, 35 segments"  # 7 in each
    assert told["3 things"] == "person, car, bus" and told["2 stuff"] == "road, sky"
    assert told["iterations"] == (f"40 (SOLVER.MAX_ITER 5, {scaled}); 8 epochs; rate falls at 32")
    assert told["batch"] == f"1 images (SOLVER.IMS_PER_BATCH 8, {scaled}); 1 process"
    assert told["learning rate"].startswith(f"0.005 (SOLVER.BASE_LR 0.04, {scaled}); SGD, ")
    assert told["evaluation"] == "every 16 iterations; the best by panoptic_seg/PQ is kept"
    assert (told["seed"], told["device"], told["weights"]) == ("5", "cpu", "start.pth")
    assert told["OUTPUT_DIR"] == str(tiny_root / "out")


def test_a_resumed_run_and_parts_are_told(tiny_root):
    cfg = tiny_config(tiny_root, "SOLVER.ACCUMULATE", 2, "SOLVER.IMS_PER_BATCH", 4, "SEED", -1)
    told = announce(cfg, asked=cfg, seed=7, start_iter=4, workers=1, train_images=5)
    assert "4 images; 1 process; 2 parts of 2" in told and "7 (drawn)" in told
    assert "goes on after 4" in told and "those of the last checkpoint" in told
