"""docs/tutorials/nuclei.md: its blocks are run as they stand, in order, in an empty folder."""

from __future__ import annotations

import json
import re

import pytest
from documented_pages import blocks_of, run_page
from PIL import Image
from project import ROOT

PAGE = ROOT / "docs/tutorials/nuclei.md"


@pytest.mark.slow
def test_the_page_runs_as_it_stands(tmp_path, monkeypatch, capsys) -> None:
    said = run_page(PAGE, tmp_path, monkeypatch) + capsys.readouterr().out

    assert "nothing wrong" in said
    validation = sorted((tmp_path / "datasets/nuclei/val").glob("*.png"))
    assert 2 <= len(validation) <= 6
    assert Image.open(tmp_path / "output/look/nuclei_train_1.png").size[0] > 400
    assert len(list((tmp_path / "output/shown").glob("cells*"))) >= len(validation)
    assert (tmp_path / "output/as_it_comes/inference/nuclei_val/predictions.json").is_file()
    # The model that comes along knows real nuclei; after three steps it still finds drawn ones.
    lines = (tmp_path / "output/mine/metrics.json").read_text().splitlines()
    assert json.loads(lines[-1])["panoptic_seg/PQ_th"] > 50
    assert (tmp_path / "output/mine/model_final.pth").is_file()
    assert {path.stem for path in (tmp_path / "output/figures").iterdir()} == {
        "best",
        "median",
        "worst",
    }
    counts = [int(found) for found in re.findall(r"^cells\S+ (\d+) nuclei", said, re.MULTILINE)]
    assert len(counts) == len(validation) and all(6 <= count <= 12 for count in counts)


def test_every_block_is_run() -> None:
    assert {language for language, _ in blocks_of(PAGE)} == {"python", "yaml", "bash"}
