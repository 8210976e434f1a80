"""tools/studies/ablation_cops.py: order, weights, tables; a program plays train_net."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from panoptic_tools.studies import ablation_cops
from panoptic_tools.studies.library import config_runs

TINY_SCENES = [
    *("DATASETS.SCENES.HEIGHT", "32", "DATASETS.SCENES.WIDTH", "48"),
    *("DATASETS.SCENES.NUM_TRAIN", "2", "DATASETS.SCENES.NUM_TEST", "2"),
]
# PQ of the baseline = 50 + seed; what starts from it adds a constant to the PQ in its weights.
FAKE = """
import json, pathlib, sys
words = sys.argv[1:]
opts = dict(zip(words[3::2], words[4::2]))
out = pathlib.Path(opts["OUTPUT_DIR"])
assert opts["DATASETS.TEST"] == "('scenes_test',)"
config = pathlib.Path(words[1]).stem
if config == "pretrain":
    assert "MODEL.WEIGHTS" not in opts
    pq = 50 + int(opts["SEED"])
elif config == "single_stage":
    assert "MODEL.WEIGHTS" not in opts
    pq = float(opts["SOLVER.MAX_ITER"])
else:
    pq = float(open(opts["MODEL.WEIGHTS"]).read()) + {"control": 1, "full_mix": 3}[config]
(out / "model_final.pth").write_text(str(pq))
results = {"panoptic_seg/PQ": pq, "sem_seg/mIoU": 30.0, "iteration": 1}
if config == "full_mix":
    results |= {"quality/surrogate": 0.5 + int(opts["SEED"]) / 10, "quality/true": 0.4}
for name in eval(opts["TEST.PANOPTIC_VARIANTS"]):
    results["panoptic_seg_%s/PQ" % name] = pq - 2
(out / "metrics.json").write_text(json.dumps(results) + "\\n")
"""


@pytest.fixture(autouse=True)
def fake_train_net(tmp_path: Path, monkeypatch) -> None:
    program = tmp_path / "fake_train_net.py"
    program.write_text(FAKE)
    monkeypatch.setattr(config_runs, "TRAIN_NET", program)


def words(tmp_path: Path, *more: str) -> list[str]:
    return ["--output", str(tmp_path / "out"), *more, "--", *TINY_SCENES]


def test_every_config_starts_from_the_baseline_of_its_seed(tmp_path):
    names = ["--names", "control", "full_mix", "--seeds", "0", "2"]
    assert ablation_cops.main(words(tmp_path, *names)) == 0
    tables = json.loads((tmp_path / "out/table.json").read_text())
    rows = {name: (row["PQ"]["min"], row["PQ"]["max"]) for name, row in tables["rows"].items()}
    assert rows == {"pretrain": (50, 52), "control": (51, 53), "full_mix": (53, 55)}
    gaps = {entry["of"]: entry["PQ"]["seeds"] for entry in tables["differences"]}
    assert gaps == {
        "full_mix - control": [2, 2],
        "control - pretrain": [1, 1],
        "full_mix - pretrain": [3, 3],
    }
    text = " ".join((tmp_path / "out/table.md").read_text().split())
    assert "| full_mix - control | **+2.0** (+2.0, +2.0) |" in text
    # Surrogates 0.5 and 0.7 of the seeds 0 and 2.
    assert tables["curves"] == {"full_mix": [{"iteration": 2, "surrogate": 60, "true": 40}]}
    assert "| full_mix | 2: 60.0 / 40.0 |" in text


def test_a_config_without_weights_starts_afresh(tmp_path):
    arguments = ["--names", "single_stage", "control", "--seeds", "0"]
    assert ablation_cops.main(words(tmp_path, *arguments, "--iterations", "single_stage=7")) == 0
    rows = json.loads((tmp_path / "out/table.json").read_text())["rows"]
    assert {name: row["PQ"]["mean"] for name, row in rows.items()} == {
        "pretrain": 50,
        "single_stage": 7,
        "control": 51,
    }


def test_variants_are_rows_and_differences_of_their_own(tmp_path):
    arguments = ["--names", "control", "--seeds", "1", "--variants", "untrimmed"]
    assert ablation_cops.main(words(tmp_path, *arguments)) == 0
    tables = json.loads((tmp_path / "out/table.json").read_text())
    assert tables["rows"]["control, untrimmed"]["PQ"]["mean"] == 50
    gaps = {entry["of"]: entry["PQ"]["mean"] for entry in tables["differences"]}
    assert gaps["control, untrimmed - control"] == -2


@pytest.mark.parametrize(
    "wrong",
    [
        ["--names", "pretrain"],
        ["--names", "absent"],
        ["--seeds", "1", "1"],
        ["--iterations", "pretrain=0"],
        ["--iterations", "full_mix=7", "--names", "control"],
        ["--iterations", "7"],
    ],
)
def test_wrong_calls_are_refused(tmp_path, wrong, capsys):
    with pytest.raises(SystemExit) as error:
        ablation_cops.main(words(tmp_path, *wrong))
    assert error.value.code == 2 and wrong[0] in capsys.readouterr().err
