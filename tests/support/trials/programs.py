"""The programs beside training: their command lines on small data, signals, and full disks."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dataset_factory import make_cityscapes, make_coco_panoptic
from PIL import Image
from project import ROOT

from trials.outcome import Outcome
from trials.processes import (
    ENVIRONMENT,
    LISTENING,
    marked,
    patience,
    started,
    train_command,
    train_words,
    wait_for_end,
)

MEANS = {
    "interrupts": "ends within 30 s, times the load per core, with status 143 or 130, without a "
    "traceback; no process, no temporary folder and nothing half-written is left",
    "disks": "a status other than 0, one sentence that says the disk is full, no traceback, and "
    "nothing half-written under its final name",
}
SECONDS = 30.0
# How often each program is ended per signal; a full disk comes at a random share of what is needed.
LEAST_ROOM, MOST_ROOM = 0.02, 0.9
SMALL = 32768  # bytes


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
    """Make the inputs once: a data set, a Cityscapes tree, a checkpoint of a tiny model."""
    data = folder / "data"
    train_words(data, folder / "unused", 1)
    make_coco_panoptic(folder, num_images=60, size=(240, 320), name="many")
    make_cityscapes(folder, splits=("val",), num_images=40, size=(128, 256), panoptic=False)
    done = subprocess.run(
        train_command(train_words(data, folder / "trained", 2)),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the tiny training failed: {done.stderr[-500:]}")
    checkpoint = folder / "trained/model_final.pth"
    return {"data": data, "many": folder, "city": folder / "cityscapes", "weights": checkpoint}


def programs(inputs: dict[str, Path], out: Path) -> list[Program]:
    """The programs, writing to `out`."""
    many, weights = inputs["many"], str(inputs["weights"])
    truth = str(many / "panoptic_many.json")
    city = out / "cityscapes"
    images = str(many / "many")
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
            [
                *(tool("evaluate_panoptic.py"), "--truth", truth, "--predictions", truth),
                *("--workers", "2", "--boundary-ratio", "0.02", "--output", str(out / "pq.json")),
            ],
            lambda out: True,
        ),
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
                *(tool("train_net.py"), "--eval-only", *train_words(inputs["data"], out, 1)),
                *("DATASETS.TEST", "('many',)", "MODEL.WEIGHTS", weights),
                *("DATALOADER.NUM_WORKERS", "2"),
            ],
            lambda out: any((out / "inference").rglob("*.png")),
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


# ---- signals ------------------------------------------------------------------------------------


def run_interrupts(count: int, seed: int, folder: Path) -> Outcome:
    """End programs by SIGTERM and SIGINT by turns, at random moments of their work."""
    draw, outcome, inputs = random.Random(seed), Outcome(), prepare(folder)
    names = len(programs(inputs, folder))
    for case in range(count):
        out = new_output(folder / str(case), inputs)
        program = programs(inputs, out)[case % names]
        number = (signal.SIGTERM, signal.SIGINT)[case // names % 2]
        problem = interrupt(program, number, with_many(program, inputs), out, draw)
        outcome.record(f"{case} {program.name}, {number.name}", problem, program.name)
        shutil.rmtree(out.parent)
    return outcome


def interrupt(
    program: Program, number: signal.Signals, words: list[str], out: Path, draw: random.Random
) -> str | None:
    """Start a program, send the signal to its whole group, and return what is wrong then."""
    temporary, log = out.parent / "temporary", out.parent / "log.txt"
    temporary.mkdir()
    listening = [sys.executable, "-c", LISTENING, sys.executable, *words]
    with started(listening, log, out, TMPDIR=str(temporary)) as process:
        end = time.monotonic() + patience(120)
        # A second of processor time is more than the imports of the one that writes nothing.
        while process.poll() is None and not (program.begun(out) and worked(out) > 1.0):
            if time.monotonic() > end:
                return "has not begun"
            time.sleep(0.1)
        time.sleep(draw.uniform(0, 0.2))
        if process.poll() is not None:
            return None if process.returncode == 0 else f"status {process.returncode} by itself"
        limit = patience(SECONDS)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        try:
            status = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            return f"still alive after {limit:.0f} s"
        left = [] if wait_for_end(out, patience(5)) else marked(out)
        if left:
            return f"processes {left} are left"
    said = log.read_text(errors="replace")
    # It may have come to its end in that very moment.
    if status not in (0, 128 + number, -number):
        return f"status {status}: {said[-300:]}"
    if "Traceback" in said:
        return said[said.index("Traceback") :][-300:]
    if list(temporary.iterdir()):
        return f"{[path.name for path in temporary.iterdir()]} is left in the temporary folder"
    return half_written(out)


def worked(mark: Path) -> float:
    """Seconds of processor time of all processes with the mark."""
    ticks = 0
    for number in marked(mark):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


# ---- full disks ---------------------------------------------------------------------------------


def run_disks(count: int, seed: int, folder: Path) -> Outcome:
    """Let each writer fill a small file system, at a random share of what it needs.

    Raises:
        RuntimeError: this user may mount none, not even in a name space of its own.
    """
    draw, outcome, inputs = random.Random(seed), Outcome(), prepare(folder)
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode != 0:
        raise RuntimeError("full disks need `unshare -rm`, which this system does not permit")
    out = folder / "disk"
    out.mkdir()
    writers = [*programs(inputs, out), *further_writers(inputs, out)]
    needs = [need(writer, inputs, out, folder / f"whole{i}") for i, writer in enumerate(writers)]
    for case in range(count):
        index = case % len(writers)
        writer, share = writers[index], draw.uniform(LEAST_ROOM, MOST_ROOM)
        # Of a file or two nothing fits at all: the disk is filled before.
        room = int(share * needs[index]) if needs[index] > SMALL else 0
        place = folder / f"full{case}"
        status, said = on_small_disk(with_many(writer, inputs), inputs, out, place, room)
        problem = None
        if status == 0:
            problem = f"status 0 with {room} of {needs[index]} bytes"
        elif "Traceback" in said:
            problem = said.strip().splitlines()[-1][-300:]
        elif "No space left" not in said and "disk" not in said:
            problem = f"does not say why: {said[-300:]}"
        problem = problem or half_written(place)
        outcome.record(f"{case} {writer.name}, {share:.0%} of the room", problem, writer.name)
        shutil.rmtree(place)
    return outcome


def further_writers(inputs: dict[str, Path], out: Path) -> list[Program]:
    """Programs that a signal need not find at work, but that write files."""
    words = train_words(inputs["data"], out, 4, period=1)
    return [
        Program("train_net", train_command(words)[1:], any_file),
        Program(
            "make_scenes --contact-sheet",
            [tool("make_scenes.py"), "--number", "4", "--contact-sheet", str(out / "sheet.png")],
            any_file,
        ),
    ]


def need(writer: Program, inputs: dict[str, Path], out: Path, place: Path) -> int:
    """Bytes that a writer fills when nothing is in its way."""
    status, said = on_small_disk(with_many(writer, inputs), inputs, out, place, 1 << 30)
    if status != 0:
        raise RuntimeError(f"{writer.name} fails with room enough: {said[-500:]}")
    size = sum(512 * path.stat().st_blocks for path in place.rglob("*") if path.is_file())
    shutil.rmtree(place)
    return size


def on_small_disk(
    words: list[str], inputs: dict[str, Path], out: Path, place: Path, room: int
) -> tuple[int, str]:
    """Run a program whose output folder is a file system of `room` bytes of its own.

    Args:
        words: of the program, which writes to `out`.
        inputs: where the Cityscapes tree lies, which has room beside.
        out: an empty folder; the file system is mounted there.
        place: what was written is copied there, since the mount ends with the program.
        room: bytes; 0: another file takes all there is.

    Returns:
        Status and all that was printed.
    """
    place.mkdir()
    # Inputs come as links, so that they take no room; only what is written counts.
    script = (
        'size=$1; out=$2; city=$3; place=$4; shift 4; mount -t tmpfs -o size=$size none "$out"; '
        'mkdir -p "$out/cityscapes/gtFine"; ln -s "$city/leftImg8bit" "$out/cityscapes/"; '
        'ln -s "$city/gtFine/val" "$out/cityscapes/gtFine/"; '
        '[ $size -gt 4096 ] || cat /dev/zero > "$out/filler" 2> /dev/null; "$@"; status=$?; '
        'rm -f "$out/filler" "$out/cityscapes/leftImg8bit" "$out/cityscapes/gtFine/val"; '
        'cp -r "$out/." "$place"; exit $status'
    )
    numbers = [str(max(4096, room)), str(out), str(inputs["city"]), str(place)]
    command = ["unshare", "-rm", "sh", "-c", script, "sh", *numbers, sys.executable, *words]
    done = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=patience(300)
    )
    return done.returncode, done.stdout + done.stderr


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
