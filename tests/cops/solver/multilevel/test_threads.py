"""Threads inside one problem: the same bits on any number of them, and they share the work."""

from __future__ import annotations

import heapq
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from cops.solver import Result, energy, parallel, solve_amwc, solve_multicut
from cops.solver.multilevel import algorithm as multilevel
from cops.solver.multilevel import build, graph
from cops.solver.multilevel.build import make_graph, reduce_node_costs
from cops.solver.multilevel.components import find_components
from cops.solver.parallel import Workers, cut_into_blocks
from cops.solver.planted import planted_problem
from cops.solver.problem import Problem
from cops.solver.stencil import _find_begins, find_stencil

COMPILED = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"


def random_graph(seed: int, num_nodes: int = 300, num_edges: int = 1500) -> Problem:
    """A graph without order, with parallel edges."""
    generator = np.random.default_rng(seed)
    edges = generator.integers(0, num_nodes, (num_edges, 2), dtype=np.int32)
    edges = np.ascontiguousarray(edges[edges[:, 0] != edges[:, 1]])
    node_costs = generator.random((num_nodes, 5), np.float32) * 2
    costs = generator.standard_normal(len(edges)).astype(np.float32)
    return Problem(node_costs, edges, costs, np.arange(5) > 1)


def problems() -> list[Problem]:
    grids = [planted_problem(n, 30, 41, 6, (1, 4, 8), float(n), num_things=9) for n in (1, 3, 6)]
    mixed = np.random.default_rng(0).permutation(len(grids[1].edges))
    shuffled = grids[1]._replace(
        edges=grids[1].edges[mixed].copy(), edge_costs=grids[1].edge_costs[mixed].copy()
    )
    return [*grids, shuffled, random_graph(0), random_graph(1)]


def same_bits(one: Any, other: Any) -> bool:
    return all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(one, other, strict=True)
    )


@pytest.fixture
def many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut small problems as large ones are."""

    def cut(size: int, least: int = 0) -> list[tuple[int, int]]:
        return cut_into_blocks(size, max(size // 7, 1))

    for module in (parallel, graph, build):
        monkeypatch.setattr(module, "cut_into_blocks", cut)
    monkeypatch.setattr(multilevel, "NODES_PER_RANGE", 300)


@pytest.mark.parametrize("method", ["multilevel", "auto"])
def test_results_are_the_same_to_the_bit_on_1_2_and_8_threads(method, many_blocks) -> None:
    for problem in problems():
        found = [solve_amwc(*problem, method=method, num_threads=t) for t in (1, 2, 8)]
        assert same_bits(found[0], found[1]) and same_bits(found[0], found[2])
        cut = [solve_multicut(*problem[1:3], method=method, num_threads=t) for t in (1, 2, 8)]
        assert same_bits(cut[0], cut[1]) and same_bits(cut[0], cut[2])
        assert found[0].energy == energy(*problem[:3], found[0].node_classes, found[0].is_cut)


def test_blocks_find_what_one_pass_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apart from the ranges of the first sweep, cutting into blocks changes no label."""
    monkeypatch.setattr(multilevel, "NODES_PER_RANGE", 300)
    whole = [solve_amwc(*problem, refine=2, method="multilevel") for problem in problems()]
    for module in (parallel, graph, build):
        monkeypatch.setattr(
            module, "cut_into_blocks", lambda size, least=0: cut_into_blocks(size, 9)
        )
    for problem, expected in zip(problems(), whole, strict=True):
        result = solve_amwc(*problem, refine=2, method="multilevel", num_threads=3)
        assert same_bits(result[:3], expected[:3])
        assert result.energy == pytest.approx(expected.energy, rel=1e-12)


@pytest.mark.parametrize("with_stencil", [True, False])
def test_components_do_not_depend_on_bands(with_stencil: bool, many_blocks) -> None:
    for seed, problem in enumerate(problems() if not with_stencil else problems()[:3]):
        stencil, _ = find_stencil(problem.edges, len(problem.node_costs))
        assert not with_stencil or len(stencil.offsets)
        reduced = reduce_node_costs(problem.node_costs, 1.0)
        rows = make_graph(problem.edges, problem.edge_costs, 1.0, *reduced, True)
        made = multilevel.make_stencil_graph(stencil, problem.edge_costs, 1.0, *reduced)
        clusters = np.random.default_rng(seed).integers(0, 3, len(reduced[1])).astype(np.int32)
        banded = find_components(made if with_stencil else rows, clusters, False, Workers(3))
        # The slow twin: labels spread along uncut edges until none changes.
        labels = np.arange(len(clusters))
        ends = problem.edges[clusters[problem.edges[:, 0]] == clusters[problem.edges[:, 1]]]
        while True:
            low = labels[ends].min(axis=1)
            before = labels.copy()
            np.minimum.at(labels, ends[:, 0], low)
            np.minimum.at(labels, ends[:, 1], low)
            if np.array_equal(before, labels):
                break
        assert banded[1] == len(np.unique(labels))
        assert np.array_equal(banded[0], np.unique(labels, return_inverse=True)[1])


@pytest.mark.parametrize("both", [True, False])
def test_rows_of_blocks_of_edges_are_those_of_one_pass(both: bool, many_blocks) -> None:
    for problem in [*problems(), random_graph(2, 5, 3), random_graph(3, 40, 4)]:
        reduced = reduce_node_costs(problem.node_costs, 1.0)
        given = (problem.edges, problem.edge_costs, 0.5, *reduced, both)
        assert same_bits(make_graph(*given), make_graph(*given, Workers(3)))


@pytest.mark.parametrize("with_stencil", [True, False])
def test_a_cluster_of_several_blocks_is_contracted_to_what_its_edges_sum_to(
    with_stencil: bool, many_blocks
) -> None:
    for seed, problem in enumerate(problems()[:3] if with_stencil else problems()[3:]):
        num_nodes, ends, costs = len(problem.node_costs), problem.edges, problem.edge_costs
        reduced = reduce_node_costs(problem.node_costs, 1.0)
        stencil, _ = find_stencil(ends, num_nodes)
        made = multilevel.make_stencil_graph(stencil, costs, 1.0, *reduced)
        if not with_stencil:
            made = make_graph(ends, costs, 1.0, *reduced, True)
        # One cluster has half of all nodes, so its members lie in several blocks.
        clusters = np.random.default_rng(seed).integers(1, 9, num_nodes).astype(np.int32)
        clusters[::2] = 0
        small, _ = graph.contract(made, clusters, 9, Workers(3))
        wanted, found = np.zeros((2, 9, 9))
        pairs = clusters[ends]
        np.add.at(
            wanted,
            tuple(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1).T),
            costs[pairs[:, 0] != pairs[:, 1]],
        )
        for v in range(9):
            links = slice(small.middle[v], small.first[v + 1])
            np.add.at(found[v], small.link_node[links], small.link_cost[links])
        np.testing.assert_allclose(found, wanted, atol=1e-3)
        sums = np.zeros((9, problem.node_costs.shape[1]))
        np.add.at(sums, clusters, reduced[0].astype(np.float64))
        np.testing.assert_allclose(
            small.node_costs, sums - sums.min(axis=1, keepdims=True), atol=1e-2
        )


def test_pieces_do_not_depend_on_blocks(many_blocks) -> None:
    edges = planted_problem(0, 30, 41, 6, (1, 4, 8)).edges
    whole = _find_begins(edges.reshape(-1), 0, len(edges), len(edges))
    stencil, valid = find_stencil(edges, 30 * 41, Workers(2))
    assert valid and np.array_equal(stencil.edge[:-1], whole)


def seconds_in_blocks(
    monkeypatch: pytest.MonkeyPatch, solve: Callable[[], Result]
) -> tuple[float, list[list[float]]]:
    """Processor time of a solve, and that of each block of each phase; one thread does all."""
    phases: list[list[float]] = []

    def run(self: Workers, tasks: list[Callable[[], Any]]) -> list[Any]:
        results, seconds = [], []
        for task in tasks:
            begin = time.thread_time()
            results.append(task())
            seconds.append(time.thread_time() - begin)
        phases.append(seconds)
        return results

    with monkeypatch.context() as patch:
        patch.setattr(Workers, "run", run)
        patch.setattr("cops.solver.call_beside", lambda task: task())
        begin = time.thread_time()
        solve()
        return time.thread_time() - begin, phases


def longest_thread(seconds: list[float], num_threads: int) -> float:
    """The time of the busiest thread, if whoever is free takes the next block."""
    busy = [0.0] * num_threads
    for second in seconds:
        heapq.heapreplace(busy, busy[0] + second)
    return max(busy)


@pytest.mark.skipif(not COMPILED, reason="times of plain Python say nothing")
@pytest.mark.parametrize(("noise", "least"), [(1.0, 1.55), (3.0, 1.5), (6.0, 1.2)])
def test_most_of_the_work_is_shared(noise: float, least: float, monkeypatch) -> None:
    """The critical path: what is left in sequence, and the busiest thread of each phase."""
    problem = planted_problem(0, 256, 512, noise=noise)
    solve = partial(solve_amwc, *problem, method="multilevel", num_threads=2)
    solve()
    gains = []
    for _ in range(5):
        total, phases = seconds_in_blocks(monkeypatch, solve)
        path = total + sum(longest_thread(phase, 2) - sum(phase) for phase in phases)
        gains.append(total / path)
    assert max(gains) > least, gains


def test_blocks_are_taken_by_several_threads() -> None:
    """Each waits for the other, so that one thread alone would wait for ever."""
    barrier = threading.Barrier(3, timeout=20)
    with Workers(3) as workers:
        names = workers.run([lambda: (barrier.wait(), threading.get_ident())[1]] * 3)
    assert len(set(names)) == 3


def test_an_error_in_a_block_is_raised_when_all_are_done() -> None:
    done = []

    def task(number: int) -> None:
        if number in (3, 4):
            raise RuntimeError("broken block")
        done.append(number)

    with Workers(2) as workers, pytest.raises(RuntimeError, match="broken block"):
        workers.run([partial(task, number) for number in range(8)])


def test_blocks_cover_everything_once() -> None:
    for size in (0, 1, 7, 1000, 100_001):
        for least in (1, 10, 1000):
            blocks = cut_into_blocks(size, least)
            numbers = [v for begin, end in blocks for v in range(begin, end)]
            assert numbers == list(range(size)) and len(blocks) <= parallel.MAX_BLOCKS
            assert len(blocks) == 1 or all(end - begin >= least for begin, end in blocks)
