"""tools/train_net.py: what the command line does, and what it refuses before the first step."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from dataset_factory import make_coco_panoptic
from detectron2.utils import logger as detectron2_logger
from project import ROOT
from tiny_system import UNIFIED_OPTIONS, forget_tiny, set_option, tiny_options

from panoptic_common.checkpoint.finite import NotFiniteError
from panoptic_common.coco.segment_ids import read_id_map, write_id_map
from panoptic_tools import train_net

PROGRAM = ROOT / "tools/train_net.py"


@pytest.fixture(autouse=True)
def one_system_more(monkeypatch):
    """The table of systems knows the tiny one, too."""
    monkeypatch.setitem(train_net.SYSTEMS, "TinyPanoptic", "tiny_system")


@pytest.fixture
def words(tmp_path):
    """Arguments that train the tiny system on a data set of 4 images for 12 iterations."""
    paths = make_coco_panoptic(tmp_path, num_images=4)
    register = ["--register", "tiny", paths.images, paths.panoptic_json, paths.panoptic_png]
    yield [*register, *tiny_options(tmp_path)]
    forget_tiny()
    # default_setup logs to OUTPUT_DIR of this test, through handlers that it never removes.
    detectron2_logger.setup_logger.cache_clear()
    for name in ("detectron2", "fvcore", "panoptic_common", "tiny_system", "unified_panoptic"):
        logging.getLogger(name).handlers.clear()


@pytest.fixture
def refusal(capsys):
    """A function that runs the program with words, and returns the sentence with which it ends."""

    def run(words: list[str], status: int = 2) -> str:
        capsys.readouterr()
        assert train_net.main(words) == status
        return capsys.readouterr().err.strip().splitlines()[-1]

    return run


# ---- what it does -------------------------------------------------------------------------------


def test_train_resume_evaluate(words, tmp_path, monkeypatch):
    assert train_net.main(words) == 0
    out = tmp_path / "out"
    final = torch.load(out / "model_final.pth", weights_only=True)
    assert final["iteration"] == 11
    assert [entry["name"] for entry in final["class_table"]][:2] == ["person", "road"]
    assert "panoptic_seg/PQ" in (out / "metrics.json").read_text()
    log = (out / "log.txt").read_text()
    assert "panoptic_common.checkpoint.checkpointer" in log and "Running with full config" in log

    assert train_net.main(["--resume", *set_option(words, "SOLVER.MAX_ITER", "16")]) == 0
    assert torch.load(out / "model_final.pth", weights_only=True)["iteration"] == 15

    results = {}
    monkeypatch.setattr(train_net, "verify_results", lambda cfg, found: results.update(found))
    evaluate = ["--eval-only", *set_option(words, "MODEL.WEIGHTS", str(out / "model_final.pth"))]
    # Who only evaluates need not have the training set.
    assert (
        train_net.main(set_option(evaluate, "DATASETS.TRAIN", "('coco_2017_train_panoptic',)")) == 0
    )
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    trained = next(line for line in reversed(lines) if "panoptic_seg/PQ" in line)
    assert results["panoptic_seg"]["PQ"] == pytest.approx(trained["panoptic_seg/PQ"])
    from_last = dict(results)
    results.clear()
    assert train_net.main(["--eval-only", "--resume", *words]) == 0
    assert results["panoptic_seg"] == from_last["panoptic_seg"]


def test_device_falls_back_to_the_cpu(words, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = set_option(set_option(words, "MODEL.DEVICE", "cuda"), "SOLVER.MAX_ITER", "2")
    assert train_net.main(set_option(words, "SOLVER.STEPS", "(1,)")) == 0
    assert "MODEL.DEVICE is set to cpu" in (tmp_path / "out/log.txt").read_text()


def test_machines_and_gpus_reach_the_launcher(words, monkeypatch):
    calls = []
    monkeypatch.setattr(train_net, "launch", lambda *a, **k: calls.append((a, k)))
    assert (
        train_net.main(
            [
                *("--num-gpus", "8", "--num-machines", "2", "--machine-rank", "1"),
                *(
                    "--dist-url",
                    "tcp://10.0.0.1:99",
                    *set_option(words, "SOLVER.IMS_PER_BATCH", "16"),
                ),
            ]
        )
        == 0
    )
    ((positional, named),) = calls
    assert positional == (train_net.work, 8)
    assert (named["num_machines"], named["machine_rank"]) == (2, 1)
    assert named["dist_url"] == "tcp://10.0.0.1:99" and named["num_processes"] is None


@pytest.mark.slow
def test_two_cpu_processes_train_evaluate_and_resume(tmp_path):
    """The Unified system on two processes that talk by gloo; each sees per image a step."""
    paths = make_coco_panoptic(tmp_path, num_images=3)
    command = [
        *(sys.executable, str(PROGRAM), "--num-processes", "2", "--dist-url", "auto"),
        *("--config-file", str(ROOT / "configs/unified/scenes/D2.yaml")),
        *("--register", "street", paths.images, paths.panoptic_json, paths.panoptic_png),
        *UNIFIED_OPTIONS,
        *("DATASETS.TRAIN", "('street',)", "DATASETS.TEST", "('street',)"),
        *("SOLVER.MAX_ITER", "3", "OUTPUT_DIR", str(tmp_path / "out")),
        # Written for one process: two take twice the batch at twice the rate for half as long.
        *("SOLVER.REFERENCE_WORLD_SIZE", "1", "SOLVER.MAX_ITER", "6", "SOLVER.IMS_PER_BATCH", "1"),
        *("SOLVER.BASE_LR", "0.002"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    final = torch.load(tmp_path / "out/model_final.pth", weights_only=True)
    assert final["iteration"] == 2 and "IMS_PER_BATCH: 2\n" in final["config"]
    lines = (tmp_path / "out/metrics.json").read_text().splitlines()
    assert any("panoptic_seg/PQ" in line for line in lines)
    assert "SOLVER.MAX_ITER 6 -> 3" in done.stderr
    assert (tmp_path / "out/log.txt.rank1").is_file()


def test_the_first_screen_says_what_the_run_will_do(words, tmp_path, capsys):
    """Detectron2's dumps of environment, config and model are in the log file alone."""
    words = set_option(words, "SOLVER.MAX_ITER", "2")
    assert train_net.main(words) == 0
    screen = capsys.readouterr().out.partition("Starting training")[0]
    assert len(screen.splitlines()) < 30
    assert "train on       tiny: 4 images, 28 segments" in screen
    log = (tmp_path / "out/log.txt").read_text()
    for dump in ("Environment info:", "Running with full config:", "TinyPanoptic(\n"):
        assert dump in log and dump not in screen
    assert "tiny: 4 images, 28 segments" in log
    assert train_net.main(["--verbose", *words]) == 0
    assert "Running with full config:" in capsys.readouterr().out


def test_a_limit_of_time_ends_with_a_checkpoint(words, tmp_path, capsys):
    """The first step takes longer than a microsecond."""
    assert train_net.main(["--max-time", "0.000001s", *words]) == 0
    out = tmp_path / "out"
    assert (out / "last_checkpoint").read_text() == "model_0000000.pth"
    assert "saved after iteration 1 of 12" in capsys.readouterr().out
    assert not (out / "model_final.pth").exists()
    assert train_net.main(["--resume", *words]) == 0
    assert torch.load(out / "model_final.pth", weights_only=True)["iteration"] == 11


def test_a_metric_that_is_none_ends_with_one_sentence(refusal, words):
    words = [*words, "TEST.EVAL_PERIOD", "2", "TEST.BEST_METRIC", "PQ"]
    assert "TEST.BEST_METRIC 'PQ' is not among the results" in refusal(words)


# ---- what it refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "6", "is 6, but the data set has 5 classes"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", "80", "is 80, but the data set has 3 thing classes"),
        ("DATASETS.TEST", "('scenes_val',)", "different class tables"),
        ("DATASETS.TRAIN", "('tinny',)", "unknown data set 'tinny'"),
        ("DATASETS.TRAIN", "('mine',)", "by --register mine IMAGES JSON PNGS"),
        ("DATASETS.TRAIN", "()", "DATASETS.TRAIN is empty"),
        ("MODEL.META_ARCHITECTURE", "PanopticFPM", "not registered with Detectron2"),
        (
            "MODEL.META_ARCHITECTURE",
            "PanopticFPN",
            "MODEL.PANOPTIC.NUMBERING is '': say 'separate'",
        ),
        ("MODEL.PANOPTIC.NUMBERING", "joint", "leave it empty for TinyPanoptic"),
        ("INPUT.MAPPER", "SomeMapper", "SomeMapper"),
        ("DATASETS.TRAIN", "tiny", """DATASETS.TRAIN is a list, write "('tiny',)" instead of"""),
        ("INPUT.MIN_SIZE_TRAIN", "48", """INPUT.MIN_SIZE_TRAIN is a list, write "(48,)" instead"""),
        ("SOLVER.BASE_LEARNING_RATE", "1", "SOLVER.BASE_LEARNING_RATE"),
    ],
)
def test_mistakes_end_before_the_first_step(refusal, words, tmp_path, key, value, message):
    assert message in refusal(set_option(words, key, value))
    assert not (tmp_path / "out").exists()


def test_a_batch_that_does_not_divide_is_refused(refusal, words, tmp_path):
    sentence = refusal(["--num-processes", "2", *set_option(words, "SOLVER.IMS_PER_BATCH", "3")])
    assert "IMS_PER_BATCH is 3, which 2 processes cannot share equally" in sentence
    assert not (tmp_path / "out").exists()


def test_scaling_is_said_first_and_written_to_the_config(words, tmp_path, capsys):
    scaled = ["SOLVER.REFERENCE_WORLD_SIZE", "2", "SOLVER.WARMUP_ITERS", "0"]
    assert train_net.main([*set_option(words, "SOLVER.MAX_ITER", "2"), *scaled]) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert "1 processes instead of SOLVER.REFERENCE_WORLD_SIZE 2" in first
    assert "SOLVER.MAX_ITER 2 -> 4" in first and "IMS_PER_BATCH 2 -> 1" in first
    written = (tmp_path / "out/config.yaml").read_text()
    assert "MAX_ITER: 4\n" in written and "IMS_PER_BATCH: 1\n" in written


@pytest.mark.parametrize("place", ["a_file", "a_file/below", "/proc/no_such"])
def test_an_unusable_folder_is_refused(refusal, words, tmp_path, place):
    (tmp_path / "a_file").write_text("x")
    folder = tmp_path / place
    assert f"OUTPUT_DIR {folder} cannot be written to" in refusal(
        set_option(words, "OUTPUT_DIR", str(folder))
    )
    assert (tmp_path / "a_file").read_text() == "x"


def test_a_second_run_in_one_folder_is_refused(refusal, words, tmp_path, monkeypatch):
    """Another process holds the folder, as a run does; it finds everything as it was."""
    monkeypatch.setattr("panoptic_common.engine.run_folder.PATIENCE", 0.0)
    out = tmp_path / "out"
    holder = (
        "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); "
        "lock.acquire(); print('held', flush=True); sys.stdin.read()"
    )
    out.mkdir()
    (out / ".model_0000003.pth.1.tmp").write_text("being written")
    command = [sys.executable, "-c", holder, str(out / "lock")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        before = sorted(path.name for path in out.iterdir())
        assert f"a run still works in {out}" in refusal(words)
        assert sorted(path.name for path in out.iterdir()) == before
        process.stdin.close()
        process.wait(20)
    assert train_net.main(words) == 0


def test_the_default_port_is_a_free_one(words):
    assert train_net.parse_arguments(words).dist_url == "auto"


def test_missing_config_file(refusal, words):
    assert "nowhere.yaml" in refusal(["--config-file", "nowhere.yaml", *words])


def test_config_file_that_is_no_yaml(refusal, words, tmp_path):
    (tmp_path / "broken.yaml").write_text("MODEL: [")
    sentence = refusal(["--config-file", str(tmp_path / "broken.yaml"), *words])
    assert "broken.yaml" in sentence


def test_damaged_json(refusal, words, tmp_path):
    path = tmp_path / "panoptic_tiny.json"
    path.write_text(path.read_text()[:-50])
    assert str(path) in refusal(words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("extra", [["--resume"], ["SOLVER.MAX_ITER"]])
def test_options_after_the_pairs_are_explained(words, extra, capsys):
    with pytest.raises(SystemExit):
        train_net.parse_arguments([*words, *extra])
    assert "after the first config option" in capsys.readouterr().err


def test_evaluation_without_weights(refusal, words):
    assert "--eval-only needs weights" in refusal(["--eval-only", *words])
    assert "holds no checkpoint" in refusal(["--eval-only", "--resume", *words])


def test_evaluation_of_other_classes(refusal, words, tmp_path):
    assert train_net.main(words) == 0
    path = tmp_path / "out/model_final.pth"
    contents = torch.load(path)
    contents["class_table"][2]["name"] = "lorry"
    torch.save(contents, path)
    words = set_option(words, "MODEL.WEIGHTS", str(path))
    assert "class 2 is 'lorry'" in refusal(["--eval-only", *words])


def test_damaged_checkpoint(refusal, words, tmp_path):
    assert train_net.main(words) == 0
    final = tmp_path / "out/model_final.pth"
    final.write_bytes(final.read_bytes()[:-200])
    sentence = refusal(["--resume", *words])
    assert str(final) in sentence and "The previous one is model_0000011.pth" in sentence
    # Doing what it says helps.
    (tmp_path / "out/last_checkpoint").write_text("model_0000007.pth")
    assert train_net.main(["--resume", *words]) == 0
    assert torch.load(final, weights_only=True)["iteration"] == 11


# ---- what becomes NaN ---------------------------------------------------------------------------


def test_gradient_of_nan_in_the_last_iteration_ends_with_one_sentence(
    refusal, words, tmp_path, monkeypatch
):
    backward = torch.Tensor.backward

    def poisoned(self, *args, **kwargs):
        backward(self, *args, **kwargs)
        steps.append(0)
        if len(steps) == 12:
            for group in optimizers[-1].param_groups:
                group["params"][0].grad.fill_(float("nan"))

    steps: list[int] = []
    optimizers: list[torch.optim.Optimizer] = []
    build = train_net.Trainer.build_optimizer.__func__

    def build_optimizer(cls, cfg, model):
        optimizers.append(build(cls, cfg, model))
        return optimizers[-1]

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "backward", poisoned)
        patch.setattr(train_net.Trainer, "build_optimizer", classmethod(build_optimizer))
        sentence = refusal(words, status=1)
    assert "in iteration 11 with the images" in sentence and "is not finite" in sentence
    log = (tmp_path / "out/log.txt").read_text()
    assert "Traceback" not in log and not (tmp_path / "out/model_final.pth").exists()
    assert (tmp_path / "out/last_checkpoint").read_text() == "model_0000007.pth"
    assert train_net.main(["--resume", *words]) == 0


def test_sentence_of_a_worker_process_is_told_without_its_traceback(refusal, words, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("worker 0 of 2 failed:\nTraceback ...") from NotFiniteError("it is NaN")

    monkeypatch.setattr(train_net, "launch", fail)
    assert refusal(words, status=1) == "train_net.py: it is NaN"


@pytest.mark.parametrize("loader_processes", ["0", "1"])
def test_a_damaged_file_ends_a_training_with_its_name(words, tmp_path, capfd, loader_processes):
    """Found when it is read: the JSON, the folders and its header show nothing."""
    path = tmp_path / "tiny" / "000000000102.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    assert train_net.main(set_option(words, "DATALOADER.NUM_WORKERS", loader_processes)) == 1
    said = capfd.readouterr()
    assert said.err.strip().splitlines()[-1].startswith(f"train_net.py: {path}: damaged image")
    assert "Traceback" not in said.out + said.err + (tmp_path / "out/log.txt").read_text()


def test_a_truth_with_pixels_that_nothing_lists_ends_an_evaluation(words, tmp_path, refusal):
    """Found by the evaluator, where a first look does not find it."""
    assert train_net.main(words) == 0
    path = tmp_path / "panoptic_tiny" / "000000000102.png"
    write_id_map(path, np.full_like(read_id_map(path), 5))
    words = [*words, "MODEL.WEIGHTS", str(tmp_path / "out/model_final.pth")]
    with pytest.MonkeyPatch.context() as patch:  # a larger set, of which it is not looked at
        patch.setattr("panoptic_common.data.catalog.try_records", lambda records: None)
        said = refusal(["--eval-only", *words], status=1)
    assert f"{path}: ids [5] (1 in all) are not in segments_info of image 102" in said
    assert "ids [5]" in refusal(["--eval-only", *words])  # of a small set it is found at once


def test_evaluation_of_weights_that_are_not_finite(refusal, words, tmp_path):
    assert train_net.main(words) == 0
    path = tmp_path / "out/model_final.pth"
    contents = torch.load(path, weights_only=True)
    contents["model"]["predictor.bias"][0] = float("nan")
    torch.save(contents, path)
    sentence = refusal(["--eval-only", *set_option(words, "MODEL.WEIGHTS", str(path))])
    assert "first in predictor.bias" in sentence
