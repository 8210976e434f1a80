"""Signals where Python drops what a handler raises: the program ends all the same."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from programs import run_program
from project import ROOT

from panoptic_common.processes.stopping import orderly_end

PLACES = {
    "while it forks": """
os.register_at_fork(after_in_parent=hit)
child = os.fork()
if not child:
    os._exit(0)
""",
    "in __del__": """
class Dying:
    def __del__(self):
        hit()

Dying()
""",
    "in a callback from C": """
called = ctypes.PYFUNCTYPE(None)(hit)
called()
""",
}
PROGRAM = """
import ctypes, os, signal, sys, time
from panoptic_common.processes import stopping
from panoptic_tools.arguments import orderly
__file__ = "program.py"

def hit():
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):  # the handler is called between two of them
        pass

@orderly
def main():
    PLACE
    time.sleep(60)
    return 0

sys.exit(main())
"""


@pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))
def test_a_signal_is_not_lost(place: str) -> None:
    """Before, the program ran on, to status 0, after "Exception ignored in" and a traceback."""
    program = PROGRAM.replace("    PLACE\n", "".join(f"    {x}\n" for x in place.split("\n")))
    done = run_program("-c", program)
    assert done.returncode == 143, done.stderr
    assert "ended by SIGTERM" in done.stderr and "Traceback" not in done.stderr


def test_other_errors_that_python_drops_are_still_reported() -> None:
    place = PLACES["in __del__"].replace("hit()", "1 / 0").split("\n")
    program = PROGRAM.replace("    PLACE\n", "".join(f"    {x}\n" for x in place))
    done = run_program("-c", program.replace("sleep(60)", "sleep(0)"))
    assert done.returncode == 0 and "ZeroDivisionError" in done.stderr


def test_the_hook_is_put_back() -> None:
    before = sys.unraisablehook
    with orderly_end():
        assert sys.unraisablehook is not before
    assert sys.unraisablehook is before


GROUP = """
import atexit, sys
from panoptic_common.processes import stopping
if sys.argv[1] == "gloo":
    import torch.distributed as dist
    atexit.register(print, "before")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
atexit.register(print, "after")
sys.exit(stopping.ended(7))
"""


@pytest.mark.parametrize("kind", ["gloo", "alone"])
def test_a_process_with_gloo_ends_by_its_status_after_pythons_own_end(kind: str) -> None:
    """Its threads aborted one process in ten, taken down on busy cores; here none is taken down."""
    done = subprocess.run(
        [sys.executable, "-c", GROUP, kind],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout.split() == ["after", *(["before"] if kind == "gloo" else [])]
