"""A full disk under each program that writes files."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

from trials.outcome import Outcome
from trials.processes import ENVIRONMENT, patience, train_command, train_words
from trials.programs import Program, any_file, half_written, prepare, programs, tool, with_many

MEANS = (
    "a status other than 0, one sentence that says the disk is full, no traceback, and nothing "
    "half-written under its final name"
)
# A full disk comes at a random share of what is needed.
LEAST_ROOM, MOST_ROOM = 0.02, 0.9
SMALL = 32768  # bytes


def run(count: int, seed: int, folder: Path) -> Outcome:
    """Let each writer fill a small file system, at a random share of what it needs.

    They take turns; the seed says which one is the first.

    Raises:
        RuntimeError: this user may mount none, not even in a name space of its own.
    """
    draw, outcome, inputs = random.Random(seed), Outcome(), prepare(folder)
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode != 0:
        raise RuntimeError("full disks need `unshare -rm`, which this system does not permit")
    out = folder / "disk"
    out.mkdir()
    writers = [*programs(inputs, out), *further_writers(inputs, out)]
    needs: dict[int, int] = {}
    for case in range(count):
        index = (case + seed) % len(writers)
        if index not in needs:
            needs[index] = need(writers[index], inputs, out, folder / f"whole{index}")
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
