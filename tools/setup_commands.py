"""Commands in another interpreter, and the lock around them; for `setup_environment`.

Standard library only, as there.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from borrowed_packages import SetupError

ROOT = Path(__file__).resolve().parent.parent

START = time.monotonic()


def say(text: str) -> None:
    """Print a line with the time since the start."""
    print(f"[set-up {time.monotonic() - START:4.0f} s] {text}", flush=True)


def run(command: Sequence[str | os.PathLike[str]], what: str) -> None:
    """Run a command to its end; a line every 20 seconds says that it still works.

    Raises:
        SetupError: the command failed; all that it wrote to its error output has been shown.
    """
    # A user's pip settings must not send the packages elsewhere than into the environment.
    variables = {**os.environ, "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
    quiet = subprocess.DEVNULL
    with tempfile.TemporaryFile() as errors:
        # close_fds=False hands the lock on, so that a pip which outlives a killed set-up keeps it.
        process = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdin=quiet, stderr=errors, close_fds=False
        )
        try:
            while wait(process, seconds=20) is None:
                say(f"... still {what}")
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if process.returncode != 0:
            errors.seek(0)
            sys.stderr.write(errors.read().decode(errors="replace"))
            raise SetupError(f"{what} failed (see above); pip keeps its downloads, so try again")


def wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Return the exit status of a process, or None if it still runs after some seconds."""
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None


def pip(python: Path, *arguments: str) -> list[str]:
    """Return a pip command line: no questions, no progress bars, errors only."""
    options = ("--disable-pip-version-check", "--no-input", "--quiet", "--quiet")
    return [str(python), "-m", "pip", *options, *arguments]


def ask(python: Path, code: str) -> str | None:
    """Return what ``code`` prints in another interpreter, or None if it fails there."""
    command = [python, "-c", code]
    try:
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    except OSError:  # a dangling link: the Python that made the environment is gone
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def python_of(environment: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    folder, name = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return environment / folder / name


def importable(python: Path, module: str) -> bool:
    """Tell whether an interpreter finds a module that is more than a stray folder."""
    code = f"import importlib.util as u; print(u.find_spec({module!r}).origin is not None)"
    return ask(python, code) == "True"


@contextlib.contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Let another set-up of the same environment finish first (`make demo` beside `make test`).

    The system drops the lock with the last process that holds it, even a killed one, so a file
    that was left behind means nothing.
    """
    with lock.open("w") as file:
        os.set_inheritable(file.fileno(), True)
        waiting = False
        while not try_lock(file.fileno()):
            if not waiting:
                say("another set-up is running: waiting for it")
            waiting = True
            time.sleep(0.5)
        yield


def try_lock(file: int) -> bool:
    """Lock an open file without waiting; return False if another process has it."""
    try:
        try:
            import fcntl
        except ImportError:  # Windows
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
