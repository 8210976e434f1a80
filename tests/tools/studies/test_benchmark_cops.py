"""tools/studies/benchmark_cops.py in miniature: the split of a step adds up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from project import ROOT
from torch import nn

from panoptic_tools.studies import benchmark_cops
from panoptic_tools.studies.library.planted_training import given_costs


def test_the_parts_of_a_step_add_up(tmp_path: Path):
    config = ROOT / "configs/cops/scenes/full_paper.yaml"
    words = ["--config-file", config, "--batch", 2, "--size", 64, 96, "--classes", 6]
    words += ["--threads", 1, "--repeat", 1, "--json", tmp_path / "table.json"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/studies/benchmark_cops.py"), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (row,) = json.loads((tmp_path / "table.json").read_text())["rows"]
    parts = row["AMWC"] + row["MWC"] + row["network and loss"]
    assert abs(parts - row["overall"]) < 0.01
    assert row["AMWC"] > 0 and row["MWC"] > 0
    assert "| greedy | 1 |" in " ".join(done.stdout.split())


def test_given_costs_reach_the_layer_and_what_was_dropped_stays_zero():
    seen = []

    class Layer(nn.Module):
        def forward(self, class_costs, edge_costs, truths):
            seen.extend([class_costs, edge_costs, truths])
            return class_costs.sum() + edge_costs.sum()

    layer = Layer()
    own = torch.tensor([[1.0, 0.0]], requires_grad=True)
    with given_costs(layer, torch.tensor([[5.0, 7.0]]), torch.tensor([[3.0]])):
        layer(own, torch.tensor([[2.0]]), "truths").backward()
    assert torch.equal(seen[0], torch.tensor([[5.0, 0.0]])) and seen[2] == "truths"
    assert torch.equal(seen[1], torch.tensor([[3.0]]))
    assert torch.equal(own.grad, torch.zeros(1, 2))  # it goes back to the network, as zero
    layer(own, torch.tensor([[2.0]]), "truths")
    assert torch.equal(seen[3], own)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--size", "66", "96"], "--size must be multiples of 4"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--classes", "1"], "--classes must be at least 2"),
        (["--config-file", "configs/cops/scenes/pretrain.yaml"], "does not train through"),
    ],
)
def test_wrong_options_get_one_sentence(wrong, message, capsys):
    with pytest.raises(SystemExit) as error:
        benchmark_cops.parse_arguments(wrong)
    assert error.value.code == 2 and message in capsys.readouterr().err
