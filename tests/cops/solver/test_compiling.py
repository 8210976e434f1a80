"""What the first call compiles: nothing twice without need, and nothing of use to nobody."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
from project import ROOT

from cops.solver.kernel_cache import _CollectorPause

FIRST_CALL = """
import gc, json
from numba.core import event
compiled = []
class Listener(event.Listener):
    def on_start(self, event):
        function = event.data["dispatcher"].py_func
        compiled.append((function.__module__, function.__name__, gc.isenabled()))
    def on_end(self, event):
        pass
from cops.solver import second_compiler, solve_amwc
from cops.solver.planted import planted_problem
second_compiler.count_processors = lambda: 1  # this process compiles all
event.register("numba:compile", Listener())
solve_amwc(*planted_problem(0, 10, 10, 19, noise=3.0))
print(json.dumps([compiled, gc.isenabled()]))
"""
# They add up float32 in the first sweep, and float64 on the smaller graphs. An index is a node or a
# cluster, int32, or a place, int64.
TWO_TYPES = {
    "index",
    *("add_up", "add_to_cluster", "find_candidate", "find_lowest", "gain_of_joining"),
    *("least_gain_of_joining", "lowest_sum", "make_tally"),
}


@pytest.mark.slow
@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="nothing is compiled")
def test_the_first_call_compiles_each_kernel_once(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", FIRST_CALL],
        cwd=ROOT,
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    compiled, collects = json.loads(run.stdout)
    assert collects  # again
    ours = Counter((module, name) for module, name, _ in compiled if module.startswith("cops."))
    assert len(ours) > 80
    twice = {name for (_, name), count in ours.items() if count > 1}
    assert twice <= TWO_TYPES | {"_append"}
    assert max(ours.values()) <= 2
    assert not any(on for module, _, on in compiled if module.startswith("cops."))
    # An array in a slice, or np.searchsorted, brings in texts and complex numbers: 2 s.
    foreign = {module for module, _, _ in compiled} | {name for _, name, _ in compiled}
    assert not foreign & {"numba.cpython.unicode", "numba.np.numpy_support", "searchsorted"}


def event(module: str) -> SimpleNamespace:
    """What Numba says of a kernel in this module."""
    kernel = SimpleNamespace(py_func=SimpleNamespace(__module__=module))
    return SimpleNamespace(data={"dispatcher": kernel})


def test_the_collector_pauses_until_the_outermost_kernel_is_compiled():
    pause = _CollectorPause()
    assert gc.isenabled()
    pause.on_start(event("cops.solver.stencil"))
    pause.on_start(event("numba.np.arrayobj"))  # of which it makes use
    pause.on_end(event("numba.np.arrayobj"))
    assert not gc.isenabled()
    pause.on_end(event("cops.solver.stencil"))
    assert gc.isenabled()


def test_the_collector_is_left_alone_for_kernels_of_others_and_where_it_was_off():
    pause = _CollectorPause()
    pause.on_start(event("another.package"))
    assert gc.isenabled()
    pause.on_end(event("another.package"))
    gc.disable()
    try:
        pause.on_start(event("cops.solver.stencil"))
        pause.on_end(event("cops.solver.stencil"))
        assert not gc.isenabled()
    finally:
        gc.enable()
