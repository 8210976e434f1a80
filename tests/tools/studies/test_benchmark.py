"""tools/studies/benchmark.py: every section runs, and its numbers agree with arithmetic."""

from __future__ import annotations

import json
import math
from functools import partial

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from project import ROOT
from torch import nn

from panoptic_tools.studies import benchmark
from panoptic_tools.studies.library.measure import WHOLE, multiply_adds
from panoptic_tools.studies.library.tables import GIB
from panoptic_tools.studies.library.unified_claims import affinity_by_hand
from unified_panoptic.modeling.instance_affinity import apply_affinity

SMALL = (
    f"--config-file {ROOT}/configs/unified/scenes/D2.yaml --classes 11 --things 5 "
    "--size 96 160 --detections 6 --repeat 2"
).split()
OPTIONS = ["MODEL.RPN.POST_NMS_TOPK_TEST", "30", "MODEL.UNIFIED.AFFINITY.CHANNELS", "16"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """All sections at a small size, as in the JSON file."""
    path = tmp_path_factory.mktemp("benchmark") / "report.json"
    assert benchmark.main([*SMALL, "--json", str(path), *OPTIONS]) == 0
    return json.loads(path.read_text())


def rows_by(rows: list[dict], key: str) -> dict[str, dict]:
    return {row[key]: row for row in rows}


def test_report_says_what_was_measured(report):
    assert report["detections"] == 6 and report["stuff classes"] == 6
    assert report["size"] == report["train size"] == [96, 160]
    assert report["options"] == OPTIONS
    sections = ["counts", "forward", "affinity", "argmax", "growth", "training"]
    assert list(report["sections"]) == sections


def test_counts_add_up(report):
    rows = rows_by(report["sections"]["counts"], "part")
    whole = rows.pop(WHOLE)
    for key in ("parameters", "multiply-adds"):
        assert all(row[key] > 0 for row in rows.values())
        assert sum(row[key] for row in rows.values()) == whole[key]
    # phi_0 and phi_1 are 1x1 convolutions of 16 to 16 channels with a bias.
    assert rows["panoptic"]["parameters"] == 2 * (16 * 16 + 16)


@pytest.mark.parametrize("section", ["forward", "training"])
def test_shares_of_the_parts_do_not_exceed_the_whole(report, section):
    rows = rows_by(report["sections"][section], "part")
    assert rows[WHOLE]["share"]["median"] == 1
    parts = [row for name, row in rows.items() if "seconds" in row and "/" not in name]
    parts.remove(rows[WHOLE])
    # Of the least times, which a busy machine disturbs least.
    total = sum(row["seconds"]["min"] for row in parts)
    assert 0.7 * rows[WHOLE]["seconds"]["min"] < total < 1.3 * rows[WHOLE]["seconds"]["min"]
    for name, row in rows.items():
        if "seconds" not in row:
            continue
        assert 0 < row["seconds"]["min"] <= row["seconds"]["median"] <= row["seconds"]["max"]
        assert 0 <= row["peak bytes"] <= rows[WHOLE]["peak bytes"], name


def test_target_is_the_share_of_the_panoptic_submodule(report):
    rows = rows_by(report["sections"]["forward"], "part")
    assert rows["target: panoptic"]["share"] == rows["panoptic"]["share"]
    assert rows["target: panoptic"]["target share"] == 0.1
    with_features = rows["panoptic + affinity features"]["share"]["median"]
    assert with_features > rows["panoptic"]["share"]["median"]


def test_affinity_counted_is_affinity_by_hand(report):
    rows = report["sections"]["affinity"]
    n, channels, maps = 24 * 40, 16, 12
    by_hand = {
        "implemented": 2 * n * channels * maps,
        "explicit": n * n * channels + n * n * maps,
    }
    for name, expected in by_hand.items():
        for row in rows:
            if row["what"].startswith(f"{name}, "):
                assert row["multiply-adds"] == expected and row["cells"] == n
    found = rows_by(rows, "what")
    assert found["greatest difference / greatest value"]["ratio"] < 1e-5
    # The explicit form holds A and P, and what the product needs besides.
    assert found["explicit, measured"]["peak bytes"] >= 4 * (n * n + n * maps)
    # The other holds the residual and the small matrix.
    assert found["implemented, measured"]["peak bytes"] < 4 * n * n / 10
    expected = by_hand["explicit"] / by_hand["implemented"]
    assert found["explicit / implemented: multiply-adds"]["ratio"] == pytest.approx(expected)


def test_strips_give_the_same_map(report):
    rows = rows_by(report["sections"]["argmax"], "what")
    assert rows["pixels that differ"]["ratio"] == 0


def test_growth_has_a_row_for_each_size_and_number(report):
    rows = report["sections"]["growth"]
    pixels = [row for row in rows if row["what"] == "more pixels"]
    detections = [row for row in rows if row["what"] == "more detections"]
    assert [row["pixels"] for row in pixels] == [24 * 40, 34 * 56, 48 * 80, 68 * 114, 96 * 160]
    assert [row["channels"] - 6 for row in detections] == [0, 2, 3, 6, 12, 24]
    exponents = rows_by(rows, "what")
    over_pixels = exponents["exponent over pixels"]
    # Products over all pixels dominate, but pasting masks of 28 x 28 costs the same at every size.
    assert 0.7 < over_pixels["multiply-adds"] < 1.05
    assert set(over_pixels) == {"what", "seconds", "peak bytes", "multiply-adds"}
    assert set(over_pixels) == set(exponents["exponent over channels"])


def test_growth_of_the_counted_work_by_hand(tmp_path):
    path = tmp_path / "growth.json"
    sections = ["--section", "growth", "--repeat", "1", "--json", str(path)]
    options = ["MODEL.MASK_ON", "False", "MODEL.UNIFIED.INFERENCE.COVERED_THRESH", "1.0"]
    assert benchmark.main([*SMALL, *sections, *OPTIONS, *options]) == 0
    rows = json.loads(path.read_text())["sections"]["growth"]
    n, channels = 24 * 40, 16
    for row in rows:
        if row["what"] == "more detections":
            # phi_0 and phi_1, then 2 n C S; without masks nothing is pasted.
            expected = 2 * n * channels * channels + 2 * n * channels * row["channels"]
            assert row["multiply-adds"] == expected


def test_saving_at_the_papers_size():
    """The paper's own figures (3.4.2): 99.8 % fewer multiply-adds, and A of 15.7 GB."""
    implemented, explicit = affinity_by_hand((200, 325), channels=128, num_maps=153)
    assert implemented["multiply-adds"] == 2 * 65000 * 128 * 153 == 2_545_920_000
    assert explicit["multiply-adds"] == 65000**2 * (128 + 153)
    assert round(100 * implemented["saved share"], 1) == 99.8
    assert round(explicit["peak bytes"] / GIB, 1) == 15.7


class Affinity(nn.Module):
    def forward(self, psi: torch.Tensor, phi_0: torch.Tensor, phi_1: torch.Tensor) -> torch.Tensor:
        return apply_affinity(psi, phi_0, phi_1)


class ExplicitAffinity(nn.Module):
    def forward(self, psi: torch.Tensor, phi_0: torch.Tensor, phi_1: torch.Tensor) -> torch.Tensor:
        return psi.flatten(1) @ (phi_0.flatten(1).T @ phi_1.flatten(1)).T


def test_three_ways_of_counting_the_affinity_agree():
    inputs = (torch.rand(9, 6, 10), torch.rand(5, 6, 10), torch.rand(5, 6, 10))
    by_hand = affinity_by_hand((6, 10), channels=5, num_maps=9)
    for model, row in zip((Affinity(), ExplicitAffinity()), by_hand, strict=True):
        analysis = FlopCountAnalysis(model, inputs).unsupported_ops_warnings(False)
        with torch.no_grad():
            counted = multiply_adds(partial(model, *inputs))
        assert counted == int(analysis.total()) == row["multiply-adds"]


def test_pairwise_matrix_is_kept_to_its_limit(capsys):
    limit = 100_000  # bytes: n^2 <= 25000
    arguments = [*SMALL, "--section", "affinity", "--pairwise-gib", str(limit / GIB)]
    assert benchmark.main(arguments) == 0
    table = capsys.readouterr().out
    cells = int(
        next(line for line in table.splitlines() if "explicit, measured" in line).split("|")[2]
    )
    assert 100 < cells <= math.sqrt(limit / 4)


@pytest.mark.parametrize(
    "changes",
    [
        "MODEL.UNIFIED.AFFINITY.ENABLED False MODEL.UNIFIED.PANOPTIC.ENABLED False",
        "MODEL.MASK_ON False MODEL.UNIFIED.INFERENCE.RESOLUTION stride4",
    ],
)
def test_other_models_are_measured_too(capsys, changes):
    sections = ["--section", "counts", "forward", "argmax", "growth", "--repeat", "1"]
    assert benchmark.main([*SMALL, *sections, *changes.split()]) == 0
    assert "| pixels that differ | | | 0 |" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("config", "counts"),
    [
        ("unified/coco/R50", (133, 80)),
        ("unified/cityscapes/R101_coco", (19, 8)),
        ("unified/scenes/D2", (14, 7)),
    ],
)
def test_class_counts_are_those_of_the_config(config, counts):
    """COCO and Cityscapes need not be there: their classes are known."""
    options = benchmark.parse_arguments(["--config-file", f"{ROOT}/configs/{config}.yaml"])
    assert (options.classes, options.things) == counts


@pytest.mark.parametrize(
    "arguments,message",
    [
        ("--classes 19", "--classes and --things belong together"),
        ("--size 16 800", "at least 32"),
        ("--train-size 800 8", "at least 32"),
        ("--detections 0", "--detections must be positive"),
        ("--repeat -1", "--repeat must be positive"),
        ("--pairwise-gib 0", "--pairwise-gib must be positive"),
        ("--classes 133 --things 133", "--things 133 must be less than --classes 133"),
        ("--section speed", "invalid choice"),
        ("--config-file no.yaml", "no.yaml"),
        ("MODEL.NO_SUCH_KEY 1", "NO_SUCH_KEY"),
    ],
)
def test_senseless_commands_are_refused(capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        benchmark.parse_arguments(arguments.split())
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_missing_gpu_is_named(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        benchmark.parse_arguments(["--device", "cuda"])
    assert "torch sees no GPU" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SystemExit):
        benchmark.parse_arguments(["--device", "cuda", "--clock", "cpu"])
    assert "--clock cpu does not see" in capsys.readouterr().err


def test_options_may_follow_or_stand_between():
    options = benchmark.parse_arguments(["--threads", "2", "MODEL.MASK_ON", "False"])
    assert options.opts == ["MODEL.MASK_ON", "False"] and options.threads == 2
    assert options.size == options.train_size == (800, 1300)
    assert set(options.section) == set(benchmark.SECTIONS)
