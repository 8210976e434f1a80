"""Ctrl-C while a program imports its libraries: it ends at once and says nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

# They import nothing but Python's own.
WITHOUT_LIBRARIES = ("setup_environment.py", "notebooks.py")
PROGRAMS = sorted(
    path.name
    for path in (ROOT / "tools").glob("*.py")
    if "__main__" in path.read_text("utf-8") and path.name not in WITHOUT_LIBRARIES
)
# Ctrl-C at the first import of a library that is not Python's own.
INTERRUPTED = """
import os, runpy, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name in ("numpy", "torch", "PIL", "tqdm", "tabulate"):
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
signal.signal(signal.SIGINT, signal.{handler})
sys.path[0] = os.path.dirname({program!r})  # as Python does for a file
sys.argv = [{program!r}, *{words!r}]
runpy.run_path({program!r}, run_name="__main__")
"""


def interrupted(
    program: str, *words: str, handler: str = "default_int_handler"
) -> subprocess.CompletedProcess:
    """Run a program that gets SIGINT when it imports the first library."""
    code = INTERRUPTED.format(program=program, words=words, handler=handler)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_dies_quietly(name: str) -> None:
    done = interrupted(str(ROOT / "tools" / name))
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize("name", ["check_dataset.py", "train_net.py", "demo.py"])
def test_a_folder_that_is_gone_is_said_in_a_sentence(tmp_path: Path, name: str) -> None:
    """torch's own library would end the program with words of its own."""
    gone = tmp_path / "gone"
    gone.mkdir()
    script = 'cd "$0" && rmdir "$0" && exec "$@"'
    words = ["sh", "-c", script, str(gone), sys.executable, str(ROOT / "tools" / name), "--help"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    sentence = f"{name}: the folder that it was started in is gone: change to another one\n"
    assert (done.returncode, done.stderr) == (2, sentence)


def test_in_a_programs_background_the_signal_stays_ignored() -> None:
    done = interrupted(str(ROOT / "tools/make_scenes.py"), "--help", handler="SIG_IGN")
    assert done.returncode == 0 and "usage" in done.stdout


def test_a_users_own_program_gets_its_exception(tmp_path) -> None:
    program = tmp_path / "mine.py"
    program.write_text(
        "import panoptic_common\ntry:\n    import numpy\n"
        "except KeyboardInterrupt:\n    print('mine')\n"
    )
    done = interrupted(str(program))
    assert (done.returncode, done.stdout) == (0, "mine\n")


def test_console_commands_and_modules_are_programs_too(tmp_path) -> None:
    """A command has a file of its own; of a module that -m runs Python knows no file at first."""
    # The handler of a terminal's foreground, wherever these tests run.
    end = "import os, signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    end += "{}import panoptic_common\nos.kill(os.getpid(), signal.SIGINT)"
    command = tmp_path / "panoptic-demo"
    command.write_text(end.format(""))
    module = "sys.argv[0] = '-m'\nsys.orig_argv = ['python', '-m', 'panoptic_tools.demo']\n"
    for words in ([str(command)], ["-c", end.format(module)]):
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
