"""tools/studies/ablation.py: bookkeeping with a program that plays train_net, tables by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from dataset_factory import make_coco_panoptic

from panoptic_tools.studies import ablation
from panoptic_tools.studies.library import config_runs

TINY_SCENES = [
    *("DATASETS.SCENES.HEIGHT", "32", "DATASETS.SCENES.WIDTH", "48"),
    *("DATASETS.SCENES.NUM_TRAIN", "2", "DATASETS.SCENES.NUM_TEST", "2"),
]
# PQ = 50 + 10 (masks) + 1 (affinity) + seed; the merger loses 2, the residual is worth 0.5.
FAKE = """
import json, os, pathlib, sys
words = sys.argv[1:]
if "--register" in words:
    del words[(place := words.index("--register")) : place + 5]
opts = dict(zip(words[3::2], words[4::2]))
out = pathlib.Path(opts["OUTPUT_DIR"])
assert opts["DATASETS.TEST"] == ("('named',)" if "DATASETS.TRAIN" in opts else "('scenes_test',)")
config = pathlib.Path(words[1]).stem
if os.environ.get("FAIL_CONFIG") == config:
    sys.exit("cannot train " + config)
pq = 50 + 10 * (config in ("C2", "D2")) + (config in ("B", "D2")) + int(opts["SEED"])
results = {"panoptic_seg/PQ": pq, "bbox/AP": 30.0, "iteration": 1}
shift = {"heuristic": -2, "residual_off": -0.5, "stride4": -3, "untrimmed": 0}
for name in eval(opts["TEST.PANOPTIC_VARIANTS"]):
    results["panoptic_seg_%s/PQ" % name] = pq + shift[name]
with open(out / "calls", "a") as file:
    file.write(opts["SOLVER.MAX_ITER"] + "\\n")
(out / "metrics.json").write_text(json.dumps(results) + "\\n")
"""


@pytest.fixture(autouse=True)
def fake_train_net(tmp_path: Path, monkeypatch) -> None:
    program = tmp_path / "fake_train_net.py"
    program.write_text(FAKE)
    monkeypatch.setattr(config_runs, "TRAIN_NET", program)


def words(tmp_path: Path, *more: str) -> list[str]:
    return ["--output", str(tmp_path / "out"), "--iterations", "7", *more, "--", *TINY_SCENES]


def test_all_configs_and_seeds_are_run_once_and_compared(tmp_path, capsys):
    assert ablation.main(words(tmp_path, "--seeds", "0", "2")) == 0
    tables = json.loads((tmp_path / "out/table.json").read_text())
    rows = {name: row["PQ"]["mean"] for name, row in tables["rows"].items()}
    # seeds 0 and 2 add 1 on average
    assert rows["A"] == 51 and rows["B"] == 52 and rows["C2"] == 61 and rows["D2"] == 62
    assert rows["C1"] == 59 and rows["D1"] == 60 and rows["D2, residual off"] == 61.5
    assert tables["rows"]["A"]["PQ"]["std"] == pytest.approx(math.sqrt(2))  # of 50 and 52
    assert tables["rows"]["A"]["PQ"]["min"] == 50 and tables["rows"]["A"]["PQ"]["max"] == 52
    gaps = {entry["of"]: entry["PQ"] for entry in tables["differences"]}
    assert gaps["B - A"]["seeds"] == [1, 1] and gaps["B - A"]["std"] == 0
    assert gaps["D2 - D1"]["mean"] == 2 and gaps["D2 - (D2, residual off)"]["mean"] == 0.5
    text = (tmp_path / "out/table.md").read_text()
    assert "| D2 | 62.0 ± 1.4 |" in " ".join(text.split()) and "**+1.0** (+1.0, +1.0)" in text
    assert text in capsys.readouterr().out

    assert ablation.main(words(tmp_path, "--seeds", "0", "2")) == 0
    assert "8 of 8 runs are finished already" in capsys.readouterr().out
    for folder in (tmp_path / "out").glob("*_seed*"):
        assert (folder / "calls").read_text() == "7\n"


def test_some_configs_give_the_rows_they_can(tmp_path):
    assert ablation.main(words(tmp_path, "--names", "A", "C2", "--seeds", "0")) == 0
    tables = json.loads((tmp_path / "out/table.json").read_text())
    assert {"A", "C1", "C2"} <= set(tables["rows"]) and "B" not in tables["rows"]
    assert "B - A" not in {entry["of"] for entry in tables["differences"]}
    assert tables["rows"]["A"]["AP mask"] is None  # A has no masks
    assert "std" not in tables["rows"]["A"]["PQ"]  # of one seed


def test_one_failure_does_not_stop_the_others(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FAIL_CONFIG", "A")
    assert ablation.main(words(tmp_path, "--seeds", "0", "--jobs", "1")) == 1
    assert "cannot train A" in capsys.readouterr().err
    assert (tmp_path / "out/D2_seed0/results.json").is_file()
    monkeypatch.delenv("FAIL_CONFIG")
    assert ablation.main(words(tmp_path, "--seeds", "0", "--jobs", "1")) == 0


def test_results_of_another_budget_are_refused(tmp_path, capsys):
    assert ablation.main(words(tmp_path, "--names", "A", "--seeds", "0")) == 0
    other = ["8" if word == "7" else word for word in words(tmp_path, "--names", "A")]
    assert ablation.main(other) == 1
    assert "opts.SOLVER.MAX_ITER: 7 -> 8" in capsys.readouterr().err


def test_other_configs_are_compared_with_what_they_vary(tmp_path):
    names = ["--names", "D2", "control_no_affinity", "--seeds", "0"]
    assert ablation.main(words(tmp_path, *names)) == 0
    tables = json.loads((tmp_path / "out/table.json").read_text())
    assert "control_no_affinity, heuristic merger" in tables["rows"]
    assert "control_no_affinity, residual off" not in tables["rows"]  # it has none
    gaps = {entry["of"]: entry["PQ"] for entry in tables["differences"]}
    assert gaps["D2 - control_no_affinity"]["seeds"] == [11]


def test_a_data_set_by_name_reaches_the_trainings(tmp_path):
    """Any registered set instead of the scenes: it is told to train_net.py, and told apart."""
    paths = make_coco_panoptic(tmp_path, name="named")
    register = ["--register", "named", paths.images, paths.panoptic_json, paths.panoptic_png]
    sets = ["--train-set", "named", "--test-set", "named"]
    assert ablation.main(words(tmp_path, *register, *sets, "--names", "A", "--seeds", "0")) == 0
    settings = json.loads((tmp_path / "out/A_seed0/settings.json").read_text())
    assert settings["opts"]["DATASETS.TRAIN"] == settings["opts"]["DATASETS.TEST"] == "('named',)"
    assert settings["flags"] == register
    assert ablation.main(words(tmp_path, "--names", "A", "--seeds", "0")) == 1  # not the same run


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--test-set", "nowhere"], "unknown data set 'nowhere'"),
        (["--names", "E"], "there is no E.yaml"),
        (["--names", "C1"], "name C2"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--iterations", "0"], "--iterations must be at least 1"),
        (["--seeds", "1", "1"], "names one twice"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, capsys, wrong, message):
    with pytest.raises(SystemExit) as error:
        ablation.main(words(tmp_path, *wrong))
    complaint = capsys.readouterr().err
    assert error.value.code == 2 and message in complaint and complaint.count("\n") == 1


def test_a_wrong_config_key_is_refused_before_anything_is_trained(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        ablation.main(["--output", str(tmp_path / "out"), "--", "SOLVER.NO_SUCH_KEY", "1"])
    assert error.value.code == 2 and "NO_SUCH_KEY" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_old_name_of_an_option_still_works():
    assert ablation.parse_arguments(["--leaves", "A", "B"]).names == ["A", "B"]
    assert ablation.parse_arguments([]).names == ["A", "B", "C2", "D2"]
