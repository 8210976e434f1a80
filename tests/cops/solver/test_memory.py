"""Memory that is lent: nobody else has it meanwhile, it comes back, and not too much is kept."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from cops.solver import memory, solve_amwc
from cops.solver.memory import LEAST_LENT, MOST_KEPT, give_back, lend
from cops.solver.parallel import ALONE, Workers
from cops.solver.planted import planted_problem


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(memory, "_KEPT", [])
    yield


def test_small_arrays_are_left_to_the_allocator() -> None:
    array, lent = lend((LEAST_LENT // 8, 1), np.float32)
    assert array.shape == (LEAST_LENT // 8, 1) and lent is None


def test_what_is_given_back_is_lent_again() -> None:
    array, lent = lend((3, LEAST_LENT), np.float32)
    assert array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable
    assert lent is not None
    give_back([lent])
    again, same = lend((2, LEAST_LENT + 5), np.float32)
    assert same is lent and np.shares_memory(again, array) and memory._KEPT == []


def test_two_never_have_the_same() -> None:
    first, lent = lend((LEAST_LENT,), np.uint8)
    second, _ = lend((LEAST_LENT,), np.uint8)
    assert lent is not None and not np.shares_memory(first, second)


def test_the_smallest_that_fits_is_taken_and_none_of_twice_the_size() -> None:
    sizes = [4 * LEAST_LENT, 2 * LEAST_LENT, 9 * LEAST_LENT]
    give_back([np.empty(size, np.uint8) for size in sizes])
    _, lent = lend((2 * LEAST_LENT - 7,), np.uint8)
    assert lent is not None and lent.size == 2 * LEAST_LENT
    _, lent = lend((4 * LEAST_LENT + 1,), np.uint8)
    assert lent is not None and lent.size == 4 * LEAST_LENT + 1
    assert [kept.size for kept in memory._KEPT] == [4 * LEAST_LENT, 9 * LEAST_LENT]


def test_not_too_much_is_kept() -> None:
    pieces = [np.empty(MOST_KEPT // 3, np.uint8) for _ in range(5)]
    give_back(pieces)
    assert [id(kept) for kept in memory._KEPT] == [id(piece) for piece in pieces[2:]]
    give_back([np.empty(MOST_KEPT + 1, np.uint8)])
    assert memory._KEPT == []


def test_workers_give_back_at_their_end_only() -> None:
    with Workers(1) as workers:
        array = workers.empty((LEAST_LENT,), np.float32)
        assert memory._KEPT == []
    assert len(memory._KEPT) == 1 and np.shares_memory(memory._KEPT[0], array)
    ALONE.empty((LEAST_LENT,), np.float32)  # no context: nothing is lent, so nothing piles up
    assert len(memory._KEPT) == 1


def test_a_result_is_not_changed_by_the_next_solve() -> None:
    problems = [planted_problem(seed, 128, 256, noise=3.0) for seed in range(2)]
    for method in ("multilevel", "auto"):
        first = solve_amwc(*problems[0], method=method)
        copies = [np.copy(array) for array in first]
        assert memory._KEPT, "these problems are large enough to lend memory"
        solve_amwc(*problems[1], method=method)
        for array, copy in zip(first, copies, strict=True):
            np.testing.assert_array_equal(array, copy)
            assert not any(np.shares_memory(array, kept) for kept in memory._KEPT)


def test_a_failed_solve_keeps_nothing_wrong() -> None:
    problem = planted_problem(0, 128, 256, noise=1.0)
    wanted = solve_amwc(*problem, method="multilevel")
    for _ in range(2):
        with pytest.raises(ValueError, match="refine"):
            solve_amwc(*problem, method="multilevel", refine=-1)
    np.testing.assert_array_equal(wanted[1], solve_amwc(*problem, method="multilevel")[1])
