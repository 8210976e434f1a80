"""tools/studies/curves.py with a program that plays train_net; its numbers by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from panoptic_tools.studies import curves
from panoptic_tools.studies.library.curve_points import (
    CurvePoint,
    curves_in_markdown,
    draw_curves,
    figure_at,
    gaps_at_equal_time,
)

TINY_SCENES = [
    *("DATASETS.SCENES.HEIGHT", "32", "DATASETS.SCENES.WIDTH", "48"),
    *("DATASETS.SCENES.NUM_TRAIN", "2", "DATASETS.SCENES.NUM_TEST", "2"),
]
# PQ = 10 per seed + a hundredth of the iterations; says what it was asked for.
FAKE = """
import json, pathlib, sys
words = sys.argv[1:]
opts = dict(zip(words[3::2], words[4::2]))
out = pathlib.Path(opts["OUTPUT_DIR"])
weights = opts.get("MODEL.WEIGHTS", "")
assert not weights or pathlib.Path(weights).is_file(), weights
pq = 10 * int(opts["SEED"]) + int(opts["SOLVER.MAX_ITER"]) / 100
names = ("panoptic_seg/PQ", "panoptic_seg/PQ_th", "panoptic_seg/PQ_st", "panoptic_seg/mIoU")
(out / "metrics.json").write_text(json.dumps(dict.fromkeys(names, pq)) + "\\n")
(out / "model_final.pth").touch()
with open(out / "calls", "a") as file:
    file.write(words[1] + "\\n")
"""


@pytest.fixture(autouse=True)
def fake_train_net(tmp_path: Path, monkeypatch) -> None:
    program = tmp_path / "fake_train_net.py"
    program.write_text(FAKE)
    monkeypatch.setattr(curves, "TRAIN_NET", program)


def test_points_are_trained_once_and_counted(tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--models", "PanopticFPN", "COPS full", "--lengths", "400", "100", "--seeds", "0", "1"]
    words += ["--output", str(out), "--jobs", "2", "--", *TINY_SCENES]
    assert curves.main(words) == 0
    points = json.loads((out / "table.json").read_text())["points"]
    # COPS full brings its baseline along.
    assert [p["model"] for p in points[::4]] == ["PanopticFPN", "COPS full", "COPS baseline"]
    found = {(p["model"], p["length"], p["seed"]): p for p in points}
    assert found["PanopticFPN", 400, 1]["results"]["panoptic_seg/PQ"] == 14  # 10 + 400 / 100
    assert found["PanopticFPN", 400, 1]["images"] == 1600
    baseline, full = found["COPS baseline", 400, 0], found["COPS full", 400, 0]
    assert full["seconds"] > baseline["seconds"] > 0
    settings = json.loads((out / "COPS_full_400_seed0/settings.json").read_text())["opts"]
    assert settings["MODEL.WEIGHTS"].endswith("COPS_baseline_400_seed0/model_final.pth")
    assert full["images"] - baseline["images"] == 8 * settings["SOLVER.MAX_ITER"]
    assert (out / "curves.png").stat().st_size > 10_000
    text = (out / "table.md").read_text()
    assert "| PanopticFPN" in text and text in capsys.readouterr().out

    assert curves.main(words) == 0
    for calls in out.glob("*/calls"):
        assert len(calls.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--models", "Nobody"], "'Nobody' is none of PanopticFPN"),
        (["--add", "PanopticFPN", "x.yaml"], "'PanopticFPN' is the name of another model"),
        (["--add", "Mine", "no_such.yaml"], "no config file"),
        (["--lengths", "0"], "--lengths must be at least 1"),
        (["--", "SEED"], "pairs"),
    ],
)
def test_mistakes_get_one_sentence(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        curves.main(words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def point(model: str, length: int, seed: int, seconds: float, pq: float) -> CurvePoint:
    names = ("panoptic_seg/PQ", "panoptic_seg/PQ_th", "panoptic_seg/PQ_st")
    return CurvePoint(model, length, seed, seconds, 4 * length, dict.fromkeys(names, pq))


def test_a_curve_is_read_in_the_logarithm_of_time():
    """From 100 s to 400 s the time doubles twice: 200 s is half way."""
    curve = [(400.0, 30.0), (100.0, 10.0)]
    assert figure_at(curve, 200.0) == pytest.approx(20.0)
    assert figure_at(curve, 100.0) == 10.0 and figure_at(curve, 400.0) == 30.0
    assert figure_at(curve, 99.0) is None and figure_at(curve, 401.0) is None
    assert figure_at([(5.0, 1.0)], 5.0) == 1.0 and figure_at([], 5.0) is None


def test_gaps_compare_seed_with_seed_at_equal_time(tmp_path):
    points = [
        *(point("First", 100, 0, 100, 10), point("First", 100, 1, 100, 12)),
        *(point("First", 400, 0, 400, 30), point("First", 400, 1, 400, 32)),
        *(point("Other", 100, 0, 200, 25), point("Other", 100, 1, 200, 21)),
        # Outside the first curve: nothing is known.
        *(point("Other", 400, 0, 900, 50), point("Other", 400, 1, 900, 50)),
    ]
    # Seed 0: 25 - 20; seed 1: 21 - 22.
    assert gaps_at_equal_time(points) == [["Other", "100", "200", *["+5.0, -1.0"] * 3]]
    text = " ".join(curves_in_markdown(points).split())
    # 23 is the mean of 25 and 21; their sample deviation is sqrt(8); 200 s are twice 100.
    assert f"| Other | 100 | 400 | 200 | 2.00 | 23.0 ± {math.sqrt(8):.1f} |" in text
    draw_curves(points, tmp_path / "x.png")
    assert (tmp_path / "x.png").is_file()
