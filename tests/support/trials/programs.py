"""The programs beside training: their command lines on small data, and whether files are whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import authors_network
import numpy as np
import torch
from dataset_factory import make_cityscapes, make_coco_panoptic
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from PIL import Image
from project import ROOT

from cops.solver.files import StoredProblem, write_problem
from cops.solver.planted import planted_problem
from trials.processes import ENVIRONMENT, train_command, train_words


class Program(NamedTuple):
    """A program at work.

    Attributes:
        name: for the reports.
        words: its command line without the interpreter.
        begun: tells from the output folder that the work has begun.
    """

    name: str
    words: list[str]
    begun: Callable[[Path], bool]


def tool(name: str) -> str:
    """Path of a program."""
    return str(ROOT / "tools" / name)


def any_file(out: Path) -> bool:
    """Whether anything was written beside Cityscapes' tree, which is there from the start."""
    return any(
        path.is_file() and "cityscapes" not in path.relative_to(out).parts
        for path in out.rglob("*")
    )


def prepare(folder: Path) -> dict[str, Path]:
    """Make the inputs once: data sets of three kinds, checkpoints of tiny models, a problem."""
    inputs = prepare_data(folder)
    for system in ("unified", "cops"):
        done = subprocess.run(
            train_command(train_words(inputs["data"], inputs[system].parent, 2, system)),
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"the tiny training failed: {done.stderr[-500:]}")
    is_thing = tuple(bool(entry["isthing"]) for entry in CITYSCAPES_CATEGORIES)
    torch.save({"model": authors_network.random_state(19, 5, is_thing)}, inputs["theirs"])
    return inputs


def prepare_data(folder: Path) -> dict[str, Path]:
    """Make all that needs no training; the checkpoints have their names alone."""
    data, raw = folder / "data", folder / "raw"
    train_words(data, folder / "unused", 1)
    make_coco_panoptic(folder, num_images=60, size=(240, 320), name="many")
    make_cityscapes(folder, splits=("val",), num_images=40, size=(128, 256), panoptic=False)
    draw = np.random.default_rng(0)
    for name in ("images", "masks"):
        (raw / name).mkdir(parents=True)
    for number in range(60):
        pixels = draw.integers(0, 256, (200, 200), dtype=np.uint8)
        Image.fromarray(pixels).save(raw / "images" / f"{number}.png")
        Image.fromarray(pixels // 64).save(raw / "masks" / f"{number}.png")
    planted = planted_problem(0, 100, 100, num_classes=4, distances=(1, 4), noise=2.0)
    stored = StoredProblem(planted[1], planted[2], 10000, planted[0], planted[3])
    write_problem(folder / "problem.npz", stored)
    return {
        "data": data,
        "many": folder,
        "city": folder / "cityscapes",
        "raw": raw,
        "problem": folder / "problem.npz",
        "unified": folder / "trained_unified/model_final.pth",
        "cops": folder / "trained_cops/model_final.pth",
        "theirs": folder / "theirs.pth",
    }


def programs(inputs: dict[str, Path], out: Path) -> list[Program]:
    """The programs that write files, here to `out`."""
    return [*data_programs(inputs, out), *model_programs(inputs, out)]


def data_programs(inputs: dict[str, Path], out: Path) -> list[Program]:
    """Those that need no model."""
    truth = str(inputs["many"] / "panoptic_many.json")
    evaluate = [tool("evaluate_panoptic.py"), "--truth", truth, "--predictions", truth]
    evaluate += ["--workers", "2"]
    city = out / "cityscapes"
    return [
        Program(
            "make_scenes",
            [tool("make_scenes.py"), "--output", str(out), "--number", "300", "--workers", "2"],
            any_file,
        ),
        Program(
            "prepare_cityscapes",
            [tool("prepare_cityscapes.py"), str(city), "--splits", "val"],
            lambda out: any((city / "gtFine").glob(".preparing_*/*/*.png")),
        ),
        Program(
            "evaluate_panoptic",
            [*evaluate, "--boundary-ratio", "0.02", "--output", str(out / "pq.json")],
            lambda out: True,
        ),
        Program(
            "evaluate_panoptic --errors",
            [*evaluate, "--engine", "own", "--errors", str(out / "errors")],
            lambda out: True,
        ),
        Program(
            "prepare_nuclei",
            [tool("prepare_nuclei.py"), str(inputs["raw"]), "--out", str(out / "nuclei")],
            lambda out: any((out / "nuclei").glob(".preparing_*/*/*.png")),
        ),
        Program(
            "solve",
            [
                *(tool("solve.py"), str(inputs["problem"]), "--output", str(out / "labels.txt")),
                *("--convert", str(out / "problem.txt")),
            ],
            lambda out: True,
        ),
    ]


def model_programs(inputs: dict[str, Path], out: Path) -> list[Program]:
    """Those that read weights."""
    weights, images = str(inputs["unified"]), str(inputs["many"] / "many")
    data = inputs["data"]
    return [
        Program(
            "demo",
            [
                *(tool("demo.py"), "--checkpoint", weights, "--output", str(out), "--json"),
                *("--device", "cpu", images),
            ],
            any_file,
        ),
        Program(
            "evaluation by train_net",
            [
                *(tool("train_net.py"), "--eval-only", *train_words(data, out, 1)),
                *("DATASETS.TEST", "('many',)", "MODEL.WEIGHTS", weights),
                *("DATALOADER.NUM_WORKERS", "2"),
            ],
            lambda out: any((out / "inference").rglob("*.png")),
        ),
        Program(
            "convert_cops_checkpoint",
            [
                *(tool("convert_cops_checkpoint.py"), str(inputs["theirs"])),
                *(str(out / "ours.pth"), "--config-file", "cops/cityscapes/pretrain.yaml"),
            ],
            lambda out: True,
        ),
        Program(
            "calibrate_cops",
            [
                *(tool("calibrate_cops.py"), str(inputs["cops"]), "--out", str(out / "new.pth")),
                *("--dataset", "street", "--register", "street"),
                *map(str, (data / "tiny", data / "panoptic_tiny.json", data / "panoptic_tiny")),
            ],
            lambda out: True,
        ),
    ]


def with_many(program: Program, inputs: dict[str, Path]) -> list[str]:
    """The words of a program; the evaluation registers its data set."""
    if "--eval-only" not in program.words:
        return program.words
    folder = inputs["many"]
    places = [folder / "many", folder / "panoptic_many.json", folder / "panoptic_many"]
    place = program.words.index("--register")
    words = ["--register", "many", *map(str, places)]
    return [*program.words[:place], *words, *program.words[place:]]


def new_output(folder: Path, inputs: dict[str, Path]) -> Path:
    """An empty folder for the output, but for Cityscapes' tree, which is written into."""
    out = folder / "out"
    out.mkdir(parents=True)
    shutil.copytree(inputs["city"], out / "cityscapes", copy_function=os.link)
    return out


def half_written(out: Path) -> str | None:
    """Name a file under `out` that is not whole, or a temporary one; logs may end anywhere."""
    checks: dict[str, Callable[[Path], object]] = {
        ".json": lambda path: path.name == "metrics.json" or json.loads(path.read_text()),
        ".png": whole_image,
        ".pth": whole_archive,
    }
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out)
        if ".partial-" in str(name) or ".preparing_" in str(name) or path.suffix == ".tmp":
            return f"{name} is left"
        try:
            if path.is_file():
                checks.get(path.suffix, lambda path: None)(path)
        except (OSError, ValueError, SyntaxError, zipfile.BadZipFile) as error:
            return f"{name} is half written: {error}"
    return None


def whole_image(path: Path) -> None:
    """Raise unless an image is whole."""
    with Image.open(path) as image:
        image.load()


def whole_archive(path: Path) -> None:
    """Raise unless all records of a checkpoint have their checksums."""
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            raise zipfile.BadZipFile(f"{path.name} is damaged")
