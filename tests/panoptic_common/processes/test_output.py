"""An output that nobody reads, or whose disk is full, ends a program in good order."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from dataset_factory import make_coco_panoptic
from project import ROOT

PROGRAM = """
import errno, os, sys
from panoptic_tools.arguments import orderly, refuse

@orderly
def main():
    {body}
    return 0

sys.exit(main())
"""


def write(body: str, output: int) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", f"__file__ = 'mine.py'{PROGRAM.format(body=body)}"],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def unread():
    """A pipe whose reading end is closed."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize(
    "body",
    [
        "print('x' * 100000, flush=True)",
        "try: print('x' * 100000, flush=True)\n    except OSError as e: return refuse('a', e)",
    ],
    ids=["uncaught", "caught and refused"],
)
def test_a_program_whose_reader_has_gone_says_nothing(unread, body: str) -> None:
    done = write(body, unread)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_broken_pipe_of_another_kind_is_no_matter_of_the_output() -> None:
    body = "raise BrokenPipeError(errno.EPIPE, 'a worker')"
    reading, writing = os.pipe()
    done = write(body, writing)
    os.close(reading)
    os.close(writing)
    assert done.returncode == 1 and "a worker" in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_under_the_output_is_one_sentence() -> None:
    with open("/dev/full", "wb") as full:
        done = write("print('x', flush=True)", full.fileno())
    assert done.returncode == 1
    assert done.stderr.strip() == "mine.py: [Errno 28] No space left on device"


@pytest.mark.parametrize("program", ["check_dataset.py", "evaluate_panoptic.py"])
def test_reports_end_without_a_word_where_nobody_reads(tmp_path, unread, program: str) -> None:
    make_coco_panoptic(tmp_path, num_images=2)
    images, table, pngs = (tmp_path / x for x in ("tiny", "panoptic_tiny.json", "panoptic_tiny"))
    words = {
        "check_dataset.py": ["my", "--images", images, "--json", table, "--png", pngs],
        "evaluate_panoptic.py": ["--truth", table, "--predictions", table],
    }[program]
    command = [sys.executable, str(ROOT / "tools" / program), *map(str, words)]
    done = subprocess.run(command, stdout=unread, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr and "Errno" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_name_can_be_printed_whatever_the_terminal_knows(encoding: str) -> None:
    """Results would be lost for the name of a class, or half a character in that of a file."""
    body = r"print('\u8eca \udcff'); print('\u8eca', file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"__file__ = 'mine.py'{PROGRAM.format(body=body)}"],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    shown = "\u8eca".encode(encoding, "backslashreplace")
    assert (done.returncode, done.stdout) == (0, shown + b" \\udcff\n")
    assert done.stderr == shown + b"\n"


@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1 2"])
def test_a_closed_stream_is_not_the_next_file(tmp_path, closed: str) -> None:
    """What is written to it, by Python or by a library in C, must not go into a result."""
    body = (
        "print('words'); print('words', file=sys.stderr)\n"
        f"    file = open({str(tmp_path / 'x')!r}, 'w')\n"
        "    [os.write(n, b'noise') for n in (1, 2)]\n"
        "    file.write('result')"
    )
    code = f"__file__ = 'mine.py'{PROGRAM.format(body=body)}"
    # Closed by Python itself before the start, as a daemon does.
    start = f"import os; [os.close(n) for n in ({closed.replace(' ', ',')},)]; "
    start += f"os.execv({sys.executable!r}, [{sys.executable!r}, '-c', {code!r}])"
    done = subprocess.run([sys.executable, "-c", start], capture_output=True)
    assert done.returncode == 0
    assert (tmp_path / "x").read_text() == "result"
