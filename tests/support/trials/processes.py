"""Trainings of tiny models by tools/train_net.py in processes of their own, to be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from dataset_factory import make_coco_panoptic
from project import ROOT
from tiny_system import UNIFIED_OPTIONS

ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
}
# Where these programs themselves run in a shell's background SIGINT is ignored, and below nohup
# SIGHUP; both would be by all that they start.
LISTENING = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "signal.signal(signal.SIGHUP, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)

# COPS through its solver and with its pre-training losses, a few channels wide.
COPS_OPTIONS = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "8"),
    *("MODEL.COPS.DISTANCES", "(1, 4)", "MODEL.COPS.FREEZE", "False", "MODEL.WEIGHTS", ""),
    *("MODEL.COPS.BACKWARD.SAMPLES", "1", "MODEL.COPS.SOLVER.THREADS", "1"),
    *("INPUT.MIN_SIZE_TRAIN", "(48,)", "INPUT.MIN_SIZE_TEST", "48", "MODEL.DEVICE", "cpu"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.WARMUP_ITERS", "2", "DATALOADER.NUM_WORKERS", "0"),
]
for _head in ("SEMANTIC", "AFFINITY"):
    for _width in ("DECODER", "ASPP", "HEAD"):
        COPS_OPTIONS += [f"MODEL.COPS.{_head}.{_width}_CHANNELS", "16"]
SYSTEM_WORDS = {
    "unified": ["--config-file", str(ROOT / "configs/unified/scenes/D2.yaml"), *UNIFIED_OPTIONS],
    "cops": ["--config-file", str(ROOT / "configs/cops/scenes/full_mix.yaml"), *COPS_OPTIONS],
}


def train_words(
    data: Path, out: Path, max_iter: int, system: str = "unified", period: int = 2
) -> list[str]:
    """Arguments of train_net.py for a system, a few channels wide, on four images.

    Args:
        data: folder of the data set; made if it is not there.
        out: folder of the run.
        max_iter: SOLVER.MAX_ITER.
        system: "unified" or "cops".
        period: SOLVER.CHECKPOINT_PERIOD.
    """
    data.mkdir(parents=True, exist_ok=True)
    if not (data / "tiny").is_dir():
        make_coco_panoptic(data, num_images=4)
    places = [data / "tiny", data / "panoptic_tiny.json", data / "panoptic_tiny"]
    config, *options = (SYSTEM_WORDS[system][:2], *SYSTEM_WORDS[system][2:])
    return [
        *config,
        *("--register", "street", *map(str, places)),
        *options,
        *("DATASETS.TRAIN", "('street',)", "DATASETS.TEST", "()", "SOLVER.MAX_ITER"),
        *(str(max_iter), "SOLVER.CHECKPOINT_PERIOD", str(period), "SOLVER.STEPS", "()"),
        *("OUTPUT_DIR", str(out), "SEED", "3"),
    ]


def train_command(words: Sequence[str], processes: int = 1, resume: bool = False) -> list[str]:
    """Command line of a training."""
    flags = ["--num-processes", str(processes)] if processes > 1 else []
    flags += ["--resume"] if resume else []
    return [sys.executable, str(ROOT / "tools/train_net.py"), *flags, *words]


@contextlib.contextmanager
def started(
    command: Sequence[str], log: Path, mark: Path, **environment: str
) -> Iterator[subprocess.Popen]:
    """Start a program in a session of its own; what is left of it at the end is killed.

    Args:
        command: its words.
        log: file for all that it prints.
        mark: is put in the environment, so that `marked` finds it and its children.
        environment: further variables.
    """
    variables = {**ENVIRONMENT, "MARK": str(mark), **environment}
    with (
        log.open("wb") as file,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=variables,
            cwd=ROOT,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            for number in {process.pid, *marked(mark)}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)


def marked(mark: Path) -> list[int]:
    """Processes whose environment holds the mark, in order of their start; zombies left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, *fields = (path / "stat").read_text().rsplit(")", 1)[1].split()
            words = (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"MARK={mark}".encode() in words and state != "Z":
            found.append((int(fields[18]), int(path.name)))  # field 22 of stat: starttime
    return [number for _, number in sorted(found)]


def workers_of(mark: Path) -> list[int]:
    """Training processes among the `marked`, without the helpers of multiprocessing."""
    found = []
    for number in marked(mark):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{number}/cmdline").read_bytes()
            if b"spawn_main" in line:
                found.append(number)
    return found


def wait_for_end(mark: Path, seconds: float) -> bool:
    """Wait until no process with the mark lives; False if the time is over before."""
    end = time.monotonic() + seconds
    while marked(mark):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def wait_for(place: Path, process: subprocess.Popen) -> None:
    """Wait until a file is there.

    Raises:
        AssertionError: the process ended, or nothing came in 150 s, times the load per core.
    """
    seconds = patience(150)
    end = time.monotonic() + seconds
    while not place.exists():
        assert process.poll() is None, f"ended with status {process.returncode} before {place}"
        assert time.monotonic() < end, f"{place} did not come within {seconds:.0f} s"
        time.sleep(0.05)


def patience(seconds: float) -> float:
    """Seconds that stand for so many of an idle machine, by the last minute's load per core."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
