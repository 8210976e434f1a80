"""The profile of one solve: phases, blocks, the critical path; the solver stays as it was."""

from __future__ import annotations

import pytest

from cops import solver
from cops.solver.parallel import Workers
from panoptic_tools.studies import solver_threads
from panoptic_tools.studies.solver_threads import Record


def test_the_critical_path_takes_the_busiest_thread_of_each_phase() -> None:
    record = Record()
    record.seconds = 10.0
    # Two threads: 3 + 1 beside 2 + 2 (whoever is free takes the next), then 1 beside nothing.
    record.blocks = [[3.0, 2.0, 1.0, 2.0], [1.0]]
    # 10 - 8 - 1 = 1 in sequence. First thread 3, second 2; the second takes 1, then either 2: 5.
    assert record.path(2) == pytest.approx(1.0 + 5.0 + 1.0)
    assert record.path(1) == pytest.approx(record.seconds)


def test_a_table_is_printed_and_nothing_stays_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    before = (Workers.run, solver.call_beside, solver.survey_problem)
    arguments = ["--sizes", "20x24", "--noise", "2", "6", "--repeat", "1", "--threads", "2"]
    assert solver_threads.main([*arguments, "--wall"]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()]
    assert [cell.strip() for cell in rows[0]] == ["problem", "20x24, 2", "20x24, 6"]
    cells = {row[0].strip(): float(row[1]) for row in rows[2:]}
    assert 0.0 < cells["parts"] <= cells["all, ms"] and cells["in blocks, %"] > 0.0
    assert cells["critical path, 2 threads"] > 0.0 and cells["wall, 2 threads"] > 0.0
    assert before == (Workers.run, solver.call_beside, solver.survey_problem)
