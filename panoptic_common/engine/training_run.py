"""One training as a process of its own: started, watched, resumed, and its results read.

Programs that need a training (the demo) or many (the ablation table) call `tools/train_net.py` with
different settings. This module keeps what they share. A run that is killed goes on from its last
checkpoint when it is started again. A finished one is never repeated. A folder that holds a run
with other settings is an error, since its results would be taken for those asked for.

Files in the folder of a run, beside those of train_net.py: `settings.json` and `train_net.txt`
(what the process printed). Also `processor_time.txt` (seconds that each call has used, also what a
killed one lost) and `lock` (held while it works). A finished run has `results.json`.

Two trainings that write the same checkpoints would ruin them, so each locks its folder
(`run_folder`). It is the training's own process that holds the lock, and not the program that
started it. The lock lasts as long as the process does, also when that program is killed and leaves
it behind. The process starts in `main` of this file, which takes the lock and then runs
train_net.py. That takes the same lock once more, which costs nothing in one process.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from panoptic_common.engine.run_folder import FINAL, METRICS, FolderRefused, hold_folder
from panoptic_common.files import write_json
from panoptic_common.values import flatten

SETTINGS, RESULTS = "settings.json", "results.json"
OUTPUT = "train_net.txt"
PROCESSOR_TIME = "processor_time.txt"
# What `stop` waits: a training saves its state first (`panoptic_common.processes.stopping`).
SECONDS_TO_STOP = 40.0
LEAST_SPACE = 2**20  # bytes; with less on its disk a training has failed for that


class TrainingFailed(RuntimeError):
    """A training ended without results; the message shows the end of what it printed."""


def with_packages(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Return the variable by which a process finds a folder's packages, installed or not."""
    path = [os.fspath(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(path)}


class TrainingRun:
    """One call of train_net.py.

    Attributes:
        output_dir: its folder.
        max_iter: SOLVER.MAX_ITER.
    """

    def __init__(
        self,
        program: str | os.PathLike[str],
        config_file: str | os.PathLike[str],
        output_dir: str | os.PathLike[str],
        max_iter: int,
        opts: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        """Describe a run; nothing is started or written yet.

        Args:
            program: path of train_net.py.
            config_file: of the model.
            output_dir: of this run alone.
            max_iter: iterations to train.
            opts: further config keys and their values.
            environment: variables to set in the process.
            settings: what tells this run from one with other settings, beside `opts`: the contents
                of the config, for example. Must survive JSON.
            flags: of train_net.py, such as ("--num-processes", "2"); also told apart.
        """
        self.output_dir = Path(output_dir)
        self.max_iter = max_iter
        self._environment = {**os.environ, **(environment or {})}
        opts = {**opts, "SOLVER.MAX_ITER": max_iter}
        described = {"config_file": os.path.basename(config_file), "opts": opts}
        described |= {"flags": list(flags), **(settings or {})}
        self._settings = json.loads(json.dumps(described))
        values = {**opts, "OUTPUT_DIR": str(output_dir)}
        words = [word for key, value in values.items() for word in (key, str(value))]
        self._command = [sys.executable, "-m", "panoptic_common.engine.training_run"]
        self._command += [str(self.output_dir), str(program)]
        self._command += ["--config-file", str(config_file), "--resume", *flags, *words]
        self._process: subprocess.Popen | None = None
        self._started = 0.0

    # ---- the process ----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process; goes on from a checkpoint if there is one.

        Raises:
            ValueError: the folder holds a run with other settings, or one that still works.
        """
        self.check_settings()
        with hold_folder(self.output_dir, patience=0):
            write_json(self.output_dir / SETTINGS, self._settings, indent=1)
            self._process = self._spawn()
        self._started = time.monotonic()
        self._wait_for_lock()

    def _spawn(self) -> subprocess.Popen:
        """Start the process, which waits for the lock that this one still holds."""
        with self.log_path.open("w", encoding="utf-8") as log:
            return subprocess.Popen(
                self._command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self._environment,
            )

    def _wait_for_lock(self) -> None:
        """Wait until the process holds the lock, lest another start comes between, or ends."""
        while self._process is not None and self._process.poll() is None:
            try:
                with hold_folder(self.output_dir, patience=0):
                    pass
            except FolderRefused:
                return
            time.sleep(0.02)

    def check_settings(self) -> None:
        """Raise ValueError if the folder holds a run with other settings."""
        path = self.output_dir / SETTINGS
        if not path.is_file():
            return
        stored = flatten(_read_json(path))
        wanted = flatten(self._settings)
        lines = [
            f"  {key}: {stored.get(key, 'absent')} -> {wanted.get(key, 'absent')}"
            for key in sorted(stored.keys() | wanted.keys())
            if stored.get(key) != wanted.get(key)
        ]
        if lines:
            raise ValueError(
                f"{self.output_dir} holds a training with other settings:\n"
                + "\n".join(lines[:10])
                + "\nName another folder by --output, or delete that one"
            )

    def running(self) -> bool:
        """Return whether the process still works.

        Raises:
            TrainingFailed: it ended with an error, or without results.
        """
        if self._process is None:
            return False
        status = self._process.poll()
        if status is None:
            return True
        self._process = None
        if status != 0 and shutil.disk_usage(self.output_dir).free < LEAST_SPACE:
            # Its log is cut before the sentence that says so.
            raise TrainingFailed(
                f"the disk of {self.output_dir} is full: free some, and the same command goes on"
            )
        if status != 0:
            raise TrainingFailed(
                f"{self.output_dir.name}: train_net.py ended with status {status}; the end of "
                f"{self.log_path}:\n{self._tail()}"
            )
        seconds = time.monotonic() - self._started
        content = {
            "results": self._read_metrics(),
            "seconds": seconds,
            "processor_seconds": self.processor_seconds(),
            "settings": self._settings,
        }
        write_json(self.output_dir / RESULTS, content, indent=1)
        return False

    def stop(self) -> None:
        """End the process, if it still works; what it has stored remains."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    def _tail(self) -> str:
        text = self.log_path.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-15:])

    # ---- what it has done -----------------------------------------------------------------------

    def finished(self) -> dict[str, Any] | None:
        """Return results and times of a finished run, or None.

        Returns:
            {"results": {name: number}, "seconds": wall time of the last call,
            "processor_seconds": of all calls, "settings": ...}.

        Raises:
            ValueError: the folder holds a run with other settings.
        """
        self.check_settings()
        path = self.output_dir / RESULTS
        if not path.is_file():
            return None
        content = _read_json(path)
        return {**content, "results": _with_nan(content["results"])}

    def progress(self) -> dict[str, float]:
        """Return the last line of metrics.json with a loss, such as "total_loss", or {}."""
        for line in reversed(self._metrics()):
            if "total_loss" in line:
                return line
        return {}

    def trained(self) -> bool:
        """Return whether the last model is stored; the evaluation may still go on."""
        return (self.output_dir / f"{FINAL}.pth").is_file()

    def processor_seconds(self) -> float:
        """Return the processor time of all calls that have ended, with their worker processes."""
        path = self.output_dir / PROCESSOR_TIME
        return sum(map(float, path.read_text().split())) if path.is_file() else 0.0

    @property
    def log_path(self) -> Path:
        """The file that all the process prints goes to."""
        return self.output_dir / OUTPUT

    def _read_metrics(self) -> dict[str, float]:
        for line in reversed(self._metrics()):
            if "panoptic_seg/PQ" in line:
                return {name: value for name, value in line.items() if "/" in name}
        raise TrainingFailed(
            f"{self.output_dir.name}: train_net.py ended well, but {METRICS} has no panoptic "
            f"quality; the end of {self.log_path}:\n{self._tail()}"
        )

    def _metrics(self) -> list[dict[str, float]]:
        path = self.output_dir / METRICS
        return read_metrics(path) if path.is_file() else []


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the lines of a metrics.json, with nan for null; one that is half written is left out.

    Args:
        path: of the file.
    """
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(_with_nan(json.loads(text)))
        except ValueError:  # the process is just writing it
            continue
    return lines


def _with_nan(figures: Mapping[str, float | None]) -> dict[str, float]:
    """Turn null, which JSON has for a figure that does not exist, back into nan."""
    return {name: math.nan if value is None else value for name, value in figures.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and start again") from None


@contextlib.contextmanager
def _processor_time(path: Path) -> Iterator[None]:
    """Append the processor time of this process and its children to a file when they end."""
    try:
        yield
    finally:
        usages = [resource.getrusage(x) for x in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{sum(usage.ru_utime + usage.ru_stime for usage in usages):.2f}\n")


def main(words: Sequence[str] | None = None) -> None:
    """Hold a folder for as long as this process lives, and run a program in it.

    Args:
        words: the folder, the program's file, and the program's own arguments; None takes them
            from the command line.
    """
    folder, program, *arguments = sys.argv[1:] if words is None else words
    sys.argv = [program, *arguments]
    try:
        with hold_folder(folder), _processor_time(Path(folder, PROCESSOR_TIME)):
            runpy.run_path(program, run_name="__main__")
    except FolderRefused as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
