"""Forged and damaged checkpoints through every way in: refused in one sentence or loaded right.

The programs themselves run, by their `main`, in a process of its own per way, with little memory.
One that hangs or dies is started again after the case that did it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import authors_network
import torch
from dataset_factory import make_coco_panoptic
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from detectron2.engine import defaults
from detectron2.utils import logger as detectron2_logger
from project import ROOT
from tiny_system import register_tiny_again, tiny_options

from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.checkpoint.weight_names import is_counter
from panoptic_common.systems import SYSTEMS
from panoptic_tools import convert_cops_checkpoint, demo, train_net
from trials.forged_checkpoints import Case, cases, suffix
from trials.outcome import Outcome

MEANS = (
    "refused with a status other than 0 in one sentence, without a traceback, or loaded with every "
    "weight equal to the file's; nothing in the file is called; less than 60 s and 4 GiB"
)
WAYS = ("train", "resume", "evaluate", "demo", "convert")
SECONDS, MEMORY = 60.0, 4 << 30
OPTIONS = ("SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "0")


def run(count: int, seed: int, folder: Path) -> Outcome:
    """Try `count` files through each of the ways."""
    outcome = Outcome()
    prepare(folder)
    for way in WAYS:
        done = 0
        while done < count:
            done = run_way(way, done, count, seed, folder, outcome)
    return outcome


def prepare(folder: Path) -> None:
    """Make the data set, and the good checkpoints that all others are made of."""
    SYSTEMS["TinyPanoptic"] = "tiny_system"
    defaults.collect_env_info = lambda: ""  # half a second each time
    data = make_coco_panoptic(folder, num_images=2)
    register_tiny_again(folder)
    assert Path(data.images).is_dir()
    with contextlib.redirect_stdout(io.StringIO()):
        status = train_net.main(train_words(folder, folder / "good"))
    forget_logs()
    if status != 0:
        raise RuntimeError("the tiny training, of which all files are made, failed")
    is_thing = tuple(bool(entry["isthing"]) for entry in CITYSCAPES_CATEGORIES)
    theirs = authors_network.random_state(19, 5, is_thing)
    torch.save({"model": theirs, "iteration": 9}, folder / "theirs.pth")


def train_words(folder: Path, out: Path) -> list[str]:
    """Arguments of train_net.py for the tiny system."""
    places = [folder / "tiny", folder / "panoptic_tiny.json", folder / "panoptic_tiny"]
    words = ["--register", "tiny", *map(str, places), *tiny_options(folder), *OPTIONS]
    return [*words, "OUTPUT_DIR", str(out), "DATASETS.TEST", "()"]


def original(way: str, folder: Path) -> dict[str, Any]:
    """Contents of the good checkpoint for a way in."""
    if way != "convert":
        return torch.load(folder / "good/model_final.pth", weights_only=True)
    # A handful of entries: of the whole network, 300 files would be 40 GB.
    contents = torch.load(folder / "theirs.pth", weights_only=True)
    few = list(contents["model"].items())
    contents["model"] = {name: value[:1].clone() for name, value in few if value.ndim == 1}
    return contents


# ---- a process for each way ---------------------------------------------------------------------


def run_way(way: str, done: int, count: int, seed: int, folder: Path, outcome: Outcome) -> int:
    """Run cases from number `done` on in a child; returns how many are done then."""
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(
        target=serve, args=(way, done, count, seed, folder, there), daemon=True
    )
    child.start()
    there.close()
    try:
        while done < count:
            if not here.poll(SECONDS):
                outcome.record(f"{way}, case {done}", f"hangs for {SECONDS:.0f} s", way)
                return done + 1
            try:
                name, verdict, problem = here.recv()
            except EOFError:
                child.join()
                outcome.record(f"{way}, case {done}", f"the process died: {child.exitcode}", way)
                return done + 1
            outcome.record(f"{way}, {name}", problem, f"{way} {verdict}")
            done += 1
    finally:
        child.kill()
        child.join()
    return done


def serve(way: str, done: int, count: int, seed: int, folder: Path, pipe: Any) -> None:
    """Body of a child: (name, verdict, problem) of each case into the pipe."""
    torch.set_num_threads(1)
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    canary = folder / f"canary_{way}"
    loaded = watch_loading()
    for number, case in enumerate(cases(seed, count, original(way, folder), canary)):
        if number < done:
            continue
        place = folder / f"{way}{number}"
        place.mkdir(exist_ok=True)
        loaded.clear()
        verdict, problem = try_case(way, case, place, folder, loaded)
        if canary.exists():
            canary.unlink()
            problem = "the file ran code"
        shutil.rmtree(place)
        pipe.send((case.name, verdict, problem))


def watch_loading() -> list[dict[str, torch.Tensor]]:
    """Keep the weights of each model that was loaded, as they are right after it."""
    states: list[dict[str, torch.Tensor]] = []
    load = PanopticCheckpointer.load

    def watched(self: PanopticCheckpointer, *arguments: Any, **options: Any) -> Any:
        result = load(self, *arguments, **options)
        states.append({k: v.clone() for k, v in self.model.state_dict().items()})
        return result

    PanopticCheckpointer.load = watched
    return states


# ---- one case -----------------------------------------------------------------------------------


def try_case(
    way: str, case: Case, place: Path, folder: Path, loaded: list[dict[str, torch.Tensor]]
) -> tuple[str, str | None]:
    """Give the file to the program; returns what that did, and what is wrong with it."""
    path = place / f"model_0000000{suffix(case)}"
    case.build(path)
    if way == "resume":
        (place / "last_checkpoint").write_text(path.name)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            status = start(way, path, place, folder)
    except Exception as error:
        return "raised", f"{type(error).__name__}: {error}"
    finally:
        forget_logs()
    if status == 0:
        wrong = None if way == "convert" else compare(case, loaded[-1] if loaded else {}, way)
        return "loaded", wrong
    if isinstance(status, str):  # sys.exit with a sentence
        errors.write(status)
    said = errors.getvalue().strip()
    if "Traceback" in said or not said:
        return "refused", f"no sentence: {said[-200:]!r}"
    diverged = case.weights is None and "became NaN or infinite" in said
    if path.name not in said and way != "resume" and not diverged:
        return "refused", f"the sentence does not name the file: {said[-300:]!r}"
    if case.sound and way != "convert":
        return "refused", f"the file is sound: {said[-300:]}"
    return "refused", None


def start(way: str, path: Path, place: Path, folder: Path) -> Any:
    """Run the program of a way in; returns its exit status, or the sentence of its `sys.exit`."""
    program: dict[str, tuple[Callable[[list[str]], Any], list[str]]] = {
        "train": (train_net.main, [*train_words(folder, place), "MODEL.WEIGHTS", str(path)]),
        "resume": (train_net.main, ["--resume", *train_words(folder, place)]),
        "evaluate": (
            train_net.main,
            [
                *("--eval-only", *train_words(folder, place), "MODEL.WEIGHTS", str(path)),
                *("DATASETS.TEST", "('tiny',)"),
            ],
        ),
        "demo": (
            demo.main,
            [
                *("--checkpoint", str(path), "--output", str(place / "drawn"), "--device", "cpu"),
                *("--panels", "panoptic", str(folder / "tiny/000000000100.jpg")),
            ],
        ),
        "convert": (
            convert_cops_checkpoint.main,
            [
                *(str(path), str(place / "ours.pth"), "--config-file"),
                str(ROOT / "configs/cops/cityscapes/pretrain.yaml"),
            ],
        ),
    }
    main, words = program[way]
    try:
        return main(words) or 0
    except SystemExit as end:
        return end.code or 0


def compare(case: Case, state: dict[str, torch.Tensor], way: str) -> str | None:
    """Return what is wrong with the weights of a model that was loaded."""
    if not state:
        return "status 0, but nothing was loaded"
    fresh = []
    for name, value in state.items():
        if not value.isfinite().all():
            return f"{name} is not finite"
        if case.weights is None or (way == "train" and name.startswith("predictor.")):
            continue  # what depends on the classes starts afresh when the class table differs
        wanted = case.weights.get(name)
        if wanted is None or wanted.shape != value.shape:
            if not is_counter(name):
                fresh.append(name)
        elif not torch.equal(value, wanted.to(value.dtype)):
            return f"{name} is not what the file holds"
    allowed = fresh if way == "train" and len(fresh) <= 1 + len(state) // 4 else []
    return None if fresh == allowed else f"{fresh} come from nowhere"


def forget_logs() -> None:
    """Drop the handlers of `default_setup`, which write to the folder of a case that is over."""
    detectron2_logger.setup_logger.cache_clear()
    for name in ("detectron2", "fvcore", "panoptic_common", *SYSTEMS.values()):
        handlers = logging.getLogger(name).handlers
        for handler in handlers:
            with contextlib.suppress(Exception):
                handler.close()
        handlers.clear()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
