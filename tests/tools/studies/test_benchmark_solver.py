"""benchmark_solver.py runs on planted, loaded and dumped problems, and reports the truth."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from project import ROOT

from cops.solver import energy, is_feasible, solve_amwc
from cops.solver.planted import planted_problem
from cops.solver.problem import check_problem
from panoptic_tools.studies import benchmark_solver as program
from panoptic_tools.studies.library.measure import peak_extra_bytes
from panoptic_tools.studies.library.solver_cases import (
    joined_labelling,
    load_beside,
    measure_beside,
)
from panoptic_tools.studies.library.solver_problems import (
    SIZES,
    dump_images,
    load_problem,
    network_config,
)
from panoptic_tools.studies.library.solver_tables import compare, growth_exponents, summarise


def run(tmp_path, words: str, status: int = 0) -> dict:
    """What the program writes as JSON."""
    report = tmp_path / "report.json"
    assert program.main([*words.split(), "--json", str(report)]) == status
    return json.loads(report.read_text())


def small_problem(seed: int = 0, **changes):
    return planted_problem(seed, *SIZES["16x24"][:4], **changes)


# ---- ours ---------------------------------------------------------------------------------------


def test_planted_problems(tmp_path, capsys):
    words = "--sizes 16x24 --noise 1 6 --variants smooth signs --methods greedy --threads 1 2"
    rows = run(tmp_path, f"{words} --repeat 2")["rows"]
    assert "feasible" in capsys.readouterr().out
    assert len(rows) == 2 * 2 * 2
    expected = solve_amwc(*small_problem(noise=6.0, variant="signs"), method="greedy")
    row = rows[-1]
    assert (row["noise"], row["variant"], row["threads"]) == (6.0, "signs", 2)
    assert row["energy"] == expected.energy and row["feasible"] and row["gain_percent"] == 0.0
    assert row["edges_per_second"] == pytest.approx(row["edges"] / row["seconds"])


def test_threads_may_share_one_solve(tmp_path, capsys):
    words = "--sizes 16x24 --noise 3 --methods multilevel --threads 1 2 --share --repeat 1"
    rows = run(tmp_path, words)["rows"]
    assert [row["threads"] for row in rows] == [1, 2]
    assert rows[0]["energy"] == rows[1]["energy"]
    with pytest.raises(SystemExit):
        run(tmp_path, f"{words} --clock cpu")
    assert "--share is measured by --clock wall" in capsys.readouterr().err


def test_refinement_is_a_row_each_and_seeds_are_summed_up(tmp_path, capsys):
    words = "--sizes 16x24 --noise 6 --seeds 0 1 2 --refine 0 3 --repeat 1"
    report = run(tmp_path, words)
    rows, summary = report["rows"], report["summary"]
    names = ["greedy", "multilevel 0", "multilevel 3"]
    assert [row["solver"] for row in rows] == 3 * names
    assert [row["solver"] for row in summary] == names
    problem = small_problem(seed=1, noise=6.0)
    for row, refine in zip(rows[4:6], (0, 3), strict=True):
        assert row["energy"] == solve_amwc(*problem, method="multilevel", refine=refine).energy
        gain = 100 * (rows[3]["energy"] - row["energy"]) / abs(rows[3]["energy"])
        assert row["gain_percent"] == pytest.approx(gain)
        assert row["times_greedy"] == pytest.approx(rows[3]["seconds"] / row["seconds"])
    gains = [row["gain_percent"] for row in rows[2::3]]
    assert summary[2]["gain"] == pytest.approx([min(gains), np.mean(gains), max(gains)])
    assert summary[2]["seconds"] == np.median([row["seconds"] for row in rows[2::3]])
    assert "x other" not in capsys.readouterr().out


def test_costs_from_a_file(tmp_path, capsys):
    problem = small_problem(seed=3, noise=3.0)
    path = tmp_path / "costs.npz"
    np.savez(path, **problem._asdict())
    words = f"--load {path} --methods greedy --repeat 1"
    (row,) = run(tmp_path, words)["rows"]
    assert (
        row["problem"] == "costs" and row["energy"] == solve_amwc(*problem, method="greedy").energy
    )
    np.savez(path, edges=problem.edges)
    with pytest.raises(ValueError, match="no array called edge_costs, node_costs, partitionable"):
        program.main(["--load", str(path), "--methods", "greedy"])


def test_growth_exponent_of_a_known_law():
    base = {"solver": "greedy", "threads": 1, "variant": "smooth", "noise": 1.0, "classes": 19}
    rows = [base | {"edges": n, "seconds": 1e-6 * n**1.25} for n in (10**3, 10**4, 10**6)]
    rows.append(base | {"edges": 50, "seconds": 9.0, "classes": 133})  # alone: no exponent
    (found,) = growth_exponents(rows)
    assert found["exponent"] == pytest.approx(1.25)


def test_peak_memory_sees_an_array():
    peak = peak_extra_bytes(lambda: np.ones(50_000_000, dtype=np.uint8).sum())
    assert peak is None or 45e6 < peak < 100e6


def test_an_error_of_the_call_is_not_taken_for_a_machine_without_memory_figures():
    calls = []

    def fail():
        calls.append(1)
        raise OSError("of the solver")

    with pytest.raises(OSError, match="of the solver"):
        peak_extra_bytes(fail)
    assert len(calls) == 1


def test_what_there_is_nothing_to_compare_with_stays_empty():
    row = {"solver": "multilevel 1", "threads": 1, "seconds": 1.0, "seconds_best_of_3": 1.0}
    compare([row])
    assert row["times_greedy"] is row["gain_percent"] is row["times_beside"] is None
    row |= {"problem": "p", "noise": 1.0, "variant": "v", "nodes": 1, "edges": 1, "feasible": True}
    row |= {"peak_extra_bytes": None, "nodes_per_second": 1.0, "edges_per_second": 1.0}
    (summary,) = summarise([row])
    assert summary["gain"] is summary["peak_extra_bytes"] is summary["times_greedy"] is None


# ---- another solver beside ours -----------------------------------------------------------------

BESIDE = """
import itertools
from cops.solver import solve_amwc
seconds = itertools.cycle([3.0, 1.0, 2.0])
def solve(node_costs, edges, edge_costs, partitionable):
    result = solve_amwc(node_costs, edges, edge_costs, partitionable, method="greedy")
    return next(seconds), result.node_classes, result.is_cut.astype("int8"), 12_000_000
"""


def test_another_solver(tmp_path, monkeypatch, capsys):
    (tmp_path / "other_solver_of_a_test.py").write_text(BESIDE)
    monkeypatch.chdir(tmp_path)
    words = "--sizes 16x24 --noise 6 --seeds 0 1 --repeat 3 --beside other_solver_of_a_test"
    report = run(tmp_path, words)
    greedy, multilevel, other = report["rows"][:3]
    assert other["solver"] == "other_solver_of_a_test"
    assert (other["seconds"], other["seconds_least"], other["peak_extra_bytes"]) == (2, 1, 12e6)
    assert other["energy"] == greedy["energy"] and other["segments"] == greedy["segments"]
    assert other["feasible"] and other["gain_percent"] == 0.0 and other["times_beside"] == 1.0
    assert multilevel["times_beside"] == pytest.approx(1.0 / multilevel["seconds_least"])
    assert multilevel["gain_percent_beside"] == pytest.approx(multilevel["gain_percent"])
    assert report["summary"][2]["times_greedy"] < 1
    assert "x other" in capsys.readouterr().out


def test_a_module_without_a_solver(tmp_path, monkeypatch):
    (tmp_path / "no_solver_of_a_test.py").write_text("answer = 42\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"no function solve\(\)"):
        load_beside("no_solver_of_a_test")
    with pytest.raises(ModuleNotFoundError):
        load_beside("not_even_a_module_of_a_test")


# Four nodes in a row; 0, 1 and 3 take class 0, which may have one cluster, and 2 takes class 1.
ROW = check_problem(
    [[0.0, 9.0], [0.0, 9.0], [9.0, 0.0], [0.0, 9.0]],
    [[0, 1], [1, 2], [2, 3]],
    [-2.0, 1.0, 1.0],
    [False, True],
)


@pytest.mark.parametrize(
    ("is_cut", "feasible"),
    [
        # 0 and 1 together; that 3 is no neighbour of theirs is no offence, the class is joined.
        ([False, True, True], True),
        # A cut between two clusters of the class that may have one only.
        ([True, True, True], False),
        # No cut between two classes.
        ([False, False, True], False),
    ],
)
def test_labels_of_others_are_judged_after_joining(is_cut, feasible):
    result, found = joined_labelling(ROW, "theirs", np.array([0, 0, 1, 0]), np.array(is_cut))
    assert found == feasible
    if is_cut[1]:
        # The energy is that of the joined labelling, and not what the false cut would earn.
        assert result.energy == 2.0 and result.node_clusters.tolist() == [0, 0, 1, 0]


def test_a_cut_inside_a_cluster_is_an_offence():
    triangle = check_problem(np.zeros((3, 1)), [[0, 1], [1, 2], [0, 2]], [1.0, 1.0, -5.0], [True])
    result, feasible = joined_labelling(
        triangle, "theirs", np.zeros(3, int), np.array([False, False, True])
    )
    assert not feasible and result.energy == 0.0


@pytest.mark.parametrize(
    ("classes", "cut", "message"),
    [
        ([0, 0, 1], [0, 1, 1], "4 integers"),
        ([0.0, 0.0, 1.0, 0.0], [0, 1, 1], "4 integers"),
        ([0, 0, 2, 0], [0, 1, 1], r"classes 0 \.\. 1"),
        ([0, 0, 1, 0], [0, 1], "3 flags"),
    ],
)
def test_labels_that_do_not_fit_are_refused(classes, cut, message):
    with pytest.raises(ValueError, match="theirs must return .*" + message):
        measure_beside(ROW, "theirs", lambda *_: (1.0, np.array(classes), np.array(cut)))


def test_an_infeasible_solver_fails_the_program(tmp_path, monkeypatch):
    (tmp_path / "wrong_solver_of_a_test.py").write_text(
        "import numpy as np\n"
        "def solve(node_costs, edges, edge_costs, partitionable):\n"
        "    return 1.0, np.zeros(len(node_costs), int), np.ones(len(edges), bool)\n"
    )
    monkeypatch.chdir(tmp_path)
    words = "--sizes 16x24 --noise 1 --methods greedy --repeat 1 --beside wrong_solver_of_a_test"
    rows = run(tmp_path, words, status=1)["rows"]
    assert [row["feasible"] for row in rows] == [True, False]
    assert rows[1]["peak_extra_bytes"] is None or rows[1]["peak_extra_bytes"] >= 0


# ---- gaps ---------------------------------------------------------------------------------------


def test_gaps(tmp_path, capsys):
    rows = run(tmp_path, "--gap --sizes 8x8 --noise 3 --seeds 0 1")["rows"]
    for seed, row in enumerate(rows):
        problem = planted_problem(seed, 8, 8, 6, (1, 3), 3.0, "smooth", 4)
        assert row["proved"] and row["relaxation_gap_percent"] >= -1e-6
        assert set(row["gap_percent"]) == {"greedy", "multilevel 1", "multilevel 3"}
        cost = solve_amwc(*problem, method="greedy").energy
        gap = 100 * (cost - row["lower"]) / abs(row["lower"])
        assert row["gap_percent"]["greedy"] == pytest.approx(gap)
        assert min(row["gap_percent"].values()) > -1e-6
    assert "| 2 of 2" in re.sub(" +", " ", capsys.readouterr().out)


# ---- real costs ---------------------------------------------------------------------------------


def test_a_dump_holds_what_inference_solves(tmp_path, monkeypatch):
    import torch
    from cops_factory import IS_THING, make_image, tiny_model

    from cops.modeling import inference

    model = tiny_model({"MODEL.COPS.INFERENCE.EDGE_OFFSET": 0.25}).eval()
    # 50 x 70 is padded by the network; the problem ends where the image does.
    images = [make_image(seed, (50, 70)) | {"file_name": f"a/{seed}.png"} for seed in range(3)]
    seen = []
    solve = inference.solve_amwc

    def record(*arguments, **options):
        seen.append(SimpleNamespace(arguments=arguments, result=solve(*arguments, **options)))
        return seen[-1].result

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(inference, "solve_amwc", record)
        model(images[:2])
    paths = dump_images(model, ([p] for p in images), tmp_path / "costs", 2)
    assert [path.name for path in paths] == ["0.npz", "1.npz"] and len(seen) == 2
    for path, expected in zip(paths, seen, strict=True):
        problem = load_problem(path)
        assert problem.node_costs.shape == (13 * 18, len(IS_THING))
        for own, given in zip(problem, expected.arguments, strict=True):
            # Two images at once or one: the last bits of a convolution may differ.
            np.testing.assert_allclose(own, np.asarray(given), rtol=1e-4, atol=1e-5)
        labels = expected.result
        assert is_feasible(problem.edges, problem.partitionable, *labels[:3])
        counted = energy(*problem[:3], labels.node_classes, labels.is_cut)
        assert counted == pytest.approx(labels.energy, rel=1e-4)


def test_a_network_on_its_test_set(tmp_path, capsys):
    from detectron2.modeling import build_model

    from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
    from panoptic_common.data.catalog import class_table

    settings = {"DATASETS.SCENES.HEIGHT": 48, "DATASETS.SCENES.WIDTH": 64}
    settings |= {"DATASETS.SCENES.NUM_VAL": 3, "DATALOADER.NUM_WORKERS": 0}
    settings |= {"INPUT.MIN_SIZE_TEST": 48}
    config = ROOT / "configs/cops/scenes/pretrain.yaml"
    words = ["--dump", tmp_path / "costs", "--config-file", config, "--num", "2"]
    words = [str(word) for word in words]
    opts = [str(part) for pair in settings.items() for part in pair]
    for given, sentence in (
        ([], "give its --weights"),
        (["--weights", str(ROOT / "README.md")], "cannot read"),
    ):
        assert program.main([*words, *given, *opts]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("benchmark_solver.py: ") and sentence in said
    cfg = network_config(program.parse_args([*words, *opts]))
    table = class_table("scenes_val")
    PanopticCheckpointer(build_model(cfg), str(tmp_path), cfg=cfg, class_table=table).save("w")
    assert program.main([*words, "--weights", str(tmp_path / "w.pth"), *opts]) == 0
    assert "2 problems are in" in capsys.readouterr().out
    paths = sorted((tmp_path / "costs").glob("*.npz"))
    problems = [load_problem(path) for path in paths]
    assert [p.node_costs.shape for p in problems] == 2 * [(12 * 16, len(table))]
    assert problems[0].partitionable.tolist() == [bool(c["isthing"]) for c in table]
    assert not np.array_equal(problems[0].edge_costs, problems[1].edge_costs)
    load = " ".join(["--load", *map(str, paths), "--repeat 1"])
    assert len(run(tmp_path, load)["rows"]) == 4


@pytest.mark.parametrize(
    "words", ["--dump folder", "--config-file f.yaml", "--gap --beside m", "--refine -1", "--num 0"]
)
def test_words_that_do_not_fit_together(words):
    with pytest.raises(SystemExit):
        program.parse_args(words.split())
