"""Worker processes end with whoever started them, however that ends, and without a word."""

from __future__ import annotations

import math
import os
import signal
import sys
from pathlib import Path

import pytest
from programs import run_program
from trials.processes import LISTENING, patience, started, wait_for, wait_for_end

from panoptic_common.processes.worker_pool import map_in_processes

PROGRAM = """
import sys, time
from pathlib import Path
from panoptic_common.processes.stopping import orderly_end
from panoptic_common.processes.worker_pool import map_in_processes

def work(path):
    Path(path).touch()
    time.sleep(600)

if __name__ == "__main__":
    folder, method = sys.argv[1:]
    with orderly_end():
        tasks = [f"{folder}/{number}" for number in range(20)]
        list(map_in_processes(work, tasks, 2, chunk=1, method=method))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize(
    ("number", "group"), [(signal.SIGTERM, False), (signal.SIGINT, True), (signal.SIGKILL, False)]
)
def test_no_worker_outlives_its_parent(
    tmp_path: Path, method: str, number: signal.Signals, group: bool
) -> None:
    """A task takes ten minutes; Ctrl-C in a terminal reaches all processes."""
    program, log = tmp_path / "program.py", tmp_path / "log.txt"
    program.write_text(PROGRAM)
    python = sys.executable
    command = [python, "-c", LISTENING, python, str(program), str(tmp_path), method]
    with started(command, log, tmp_path) as process:
        wait_for(tmp_path / "0", process)
        wait_for(tmp_path / "1", process)
        (os.killpg if group else os.kill)(process.pid, number)
        status = process.wait(timeout=patience(30))
        assert wait_for_end(tmp_path, patience(10))
    assert status == (-number if number == signal.SIGKILL else 128 + number)
    # Python's own helper says what a killed process has left to it.
    assert "Traceback" not in log.read_text() and (number == signal.SIGKILL or not log.read_text())
    assert not (tmp_path / "2").exists()  # nothing further was begun


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_signal_while_workers_start_shows_no_traceback(tmp_path: Path) -> None:
    """The workers are importing then; a KeyboardInterrupt there would be theirs."""
    program, log = tmp_path / "program.py", tmp_path / "log.txt"
    slow = PROGRAM.replace(
        "import sys, time",
        "import sys, time\nif __name__ != '__main__':\n"
        "    open(sys.argv[1] + '/starting', 'w'); time.sleep(2)",
    )
    program.write_text(slow)
    command = [
        sys.executable,
        "-c",
        LISTENING,
        sys.executable,
        str(program),
        str(tmp_path),
        "spawn",
    ]
    with started(command, log, tmp_path) as process:
        wait_for(tmp_path / "starting", process)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=patience(30)) == 130
        assert wait_for_end(tmp_path, patience(10))
    assert log.read_text() == ""


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_tasks(workers: int) -> None:
    """0! to 8!."""
    results = map_in_processes(math.factorial, range(9), workers, chunk=2)
    assert list(results) == [1, 1, 2, 6, 24, 120, 720, 5040, 40320]


def die(task: int) -> None:
    """What the system does to a process without memory."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_worker_that_is_killed_is_told_in_a_sentence(method: str) -> None:
    with pytest.raises(ChildProcessError, match="a worker process was killed.*try fewer workers"):
        list(map_in_processes(die, range(4), 2, chunk=1, method=method))


UNGUARDED = """
import math, sys
from panoptic_common.processes.worker_pool import map_in_processes

open(sys.argv[1], "a").write("begun ")
print(list(map_in_processes(math.factorial, range(5), 2, chunk=1)))
print(__file__, __spec__)
"""


def test_workers_do_not_run_a_program_that_is_not_guarded(tmp_path: Path) -> None:
    """Each would begin anew, and wait for the lock of what its parent was making."""
    program, log = tmp_path / "program.py", tmp_path / "log.txt"
    program.write_text(UNGUARDED)
    done = run_program(str(program), str(log))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[1, 1, 2, 6, 24]", f"{program} None"]
    assert log.read_text() == "begun "


FEW_FILES = """
import math, os, resource
from panoptic_common.processes.worker_pool import map_in_processes

free = len(os.listdir("/proc/self/fd")) - 1 + int(os.environ["MORE"])
resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
try:
    list(map_in_processes(math.sqrt, range(40), 20, chunk=1, method=None))
except ChildProcessError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("more", [1, 5, 12])
def test_workers_that_cannot_all_be_started_are_not_waited_for(more: int) -> None:
    """One of 20 finds no open file any more: the others waited for tasks, and Python for them."""
    done = run_program("-c", FEW_FILES, MORE=str(more))  # TimeoutExpired after 120 s
    assert done.returncode == 0, done.stderr
    assert "20 worker processes cannot be started (Too many open files): try" in done.stdout
