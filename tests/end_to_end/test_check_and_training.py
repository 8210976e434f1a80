"""`check_dataset` and training agree on what is wrong with a data set, and on what is not.

Each row of `hostile_datasets.MUTATIONS` is built, checked and read as training reads it. Where it
is accepted, the Unified system is trained on it for one step.
"""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path

import pytest
import torch
from dataset_factory import make_coco_panoptic
from dataset_parity import TREATMENTS, judge, judge_hostile, parity_problem
from detectron2.utils.events import EventStorage
from hostile_datasets import MUTATIONS, TRAINS, TREATED, edit, hostile_datasets
from project import ROOT
from tiny_system import UNIFIED_OPTIONS

from panoptic_common.coco.annotations import build_class_table
from panoptic_common.coco.check import check_dataset
from panoptic_common.config import load_config
from panoptic_tools import check_dataset as check_program
from panoptic_tools import train_net

CONFIG = ROOT / "configs/unified/scenes/D2.yaml"


@functools.lru_cache(maxsize=2)
def unified(table_text: str) -> torch.nn.Module:
    """A tiny Unified model for a class table."""
    cfg = load_config(CONFIG, UNIFIED_OPTIONS, table=json.loads(table_text))
    torch.manual_seed(0)
    return train_net.Trainer.build_model(cfg).train()


def step(samples: list[dict], panoptic_json: str) -> float:
    """Run one forward and backward pass over all images; return the loss."""
    content = json.loads(Path(panoptic_json).read_text(encoding="utf-8-sig"))
    table = build_class_table(content["categories"], panoptic_json)
    model = unified(json.dumps([{**entry, "color": [0, 0, 0]} for entry in table]))
    model.zero_grad()
    with EventStorage():
        loss = sum(model(samples).values())
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    return loss.item()


@pytest.mark.parametrize("name", MUTATIONS)
def test_training_does_what_the_check_leads_one_to_expect(tmp_path: Path, name: str) -> None:
    mutation = MUTATIONS[name]
    paths = make_coco_panoptic(tmp_path, num_images=2)
    mutation.plant(paths, random.Random(0))
    verdicts = judge(paths)
    assert (verdicts.check, verdicts.training) == (mutation.check, mutation.training), verdicts
    assert parity_problem(verdicts) == ""
    if mutation.training in (TRAINS, TREATED):
        assert len(verdicts.samples) >= 1
        assert 0 < step(verdicts.samples, paths.panoptic_json) < float("inf")
    else:
        first = verdicts.refusal.splitlines()[0]
        assert str(tmp_path) in first and "Errno" not in first, first  # names a file


def test_the_table_is_large_and_covers_all_treatments() -> None:
    assert len(MUTATIONS) >= 100
    assert {m.check for m in MUTATIONS.values()} == {"nothing", "note", "fault"}
    document = (ROOT / "docs/howto/data_faults.md").read_text(encoding="utf-8")
    for treatment in TREATMENTS:
        assert f"| {treatment} |" in document, treatment


def test_hostile_data_sets_find_no_contradiction(tmp_path: Path) -> None:
    """Some with several mutations each; `make endurance` has 400."""
    number = len(MUTATIONS)
    for name, build in list(hostile_datasets(seed=3, count=number + 40))[number:]:
        folder = tmp_path / str(number)
        folder.mkdir()
        assert judge_hostile(build, folder) == "", name
        number += 1


# ---- what concerns classes -----------------------------------------------------------------------


def refuse(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run train_net; return the sentence with which it refuses, before it has written a file."""
    assert train_net.main(["--config-file", str(CONFIG), *words]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(("kind", "missing"), [(1, "stuff"), (0, "thing")])
def test_classes_of_one_kind_are_noted_and_train_cops(tmp_path: Path, kind: int, missing) -> None:
    paths = make_coco_panoptic(tmp_path, num_images=2)

    def change(data: dict, draw: random.Random) -> None:
        for entry in data["categories"]:
            entry["isthing"] = kind
        for annotation in data["annotations"]:  # without two segments of one class
            kept = {s["category_id"]: s for s in annotation["segments_info"]}
            annotation["segments_info"] = list(kept.values())

    edit(change)(paths, random.Random(0))
    assert check_program.kind_notes(check_dataset(paths)) == [
        f"there is no {missing} class, without which COPS can be trained, but not Unified"
    ]
    files = [paths.images, paths.panoptic_json, paths.panoptic_png]
    options = ["DATASETS.TRAIN", f"('{missing}',)", "DATASETS.TEST", "()"]
    config = ROOT / "configs/cops/scenes/pretrain.yaml"
    cfg = load_config(config, options, datasets=[(missing, *files)])
    assert train_net.Trainer.build_target_function(cfg) is not None


def test_what_is_missing_is_said_before_anything_is_set_up(tmp_path: Path, capsys) -> None:
    """Case F25: the folder of images is elsewhere. F21: two class tables differ."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first = make_coco_panoptic(tmp_path / "a", num_images=4)
    second = make_coco_panoptic(tmp_path / "b", num_images=4)
    words = []
    for name, paths in (("far", first), ("near", second)):
        words += ["--register", name, paths.images, paths.panoptic_json, paths.panoptic_png]
    words += ["OUTPUT_DIR", str(tmp_path / "out"), "DATASETS.TRAIN", "('far',)"]
    Path(first.images).rename(tmp_path / "elsewhere")
    said = refuse(capsys, *words, "DATASETS.TEST", "('near',)")
    assert said.startswith("train_net.py: 4 files are missing, the first is ")
    assert f"{first.images}/000000000100.jpg" in said.splitlines()[0]
    (tmp_path / "elsewhere").rename(first.images)
    edit(lambda d, _: d["categories"][0].update(name="lorry"))(second, random.Random(0))
    said = refuse(capsys, *words, "DATASETS.TEST", "('near',)")
    assert "'car'" in said and "'lorry'" in said and said.count("\n") == 1
    assert "write \"('far',)\" instead of far" in refuse(capsys, *words, "DATASETS.TEST", "far")
    assert not (tmp_path / "out").exists()
