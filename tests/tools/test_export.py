"""tools/export.py and tools/run_exported.py, with onnx and onnxruntime where they are installed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import cops_factory
import model_factory
import numpy as np
import pytest
from PIL import Image
from project import ROOT
from torch_export import noise_image

from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.coco.segment_ids import read_id_map
from panoptic_tools import export, run_exported

SIZES = {"INPUT.MIN_SIZE_TEST": 64, "INPUT.MAX_SIZE_TEST": 100}
MERGER = {"MODEL.UNIFIED.INFERENCE.METHOD": "heuristic"}
RUN = """
import sys
from panoptic_tools.run_exported import main
status = main(sys.argv[1:])
assert not {"torch", "torchvision", "detectron2"} & set(sys.modules)
sys.exit(status)
"""


def saved(folder: Path, cfg, model, is_thing) -> Path:
    """Write a checkpoint as the trainer does."""
    table = [
        {"id": i + 1, "name": f"class {i}", "isthing": int(flag), "color": [40 * i, 9, 9]}
        for i, flag in enumerate(is_thing)
    ]
    checkpointer = PanopticCheckpointer(
        model, str(folder), cfg=cfg, class_table=table, save_to_disk=True
    )
    checkpointer.save("model_final", iteration=-1)
    return folder / "model_final.pth"


@pytest.fixture
def images(tmp_path) -> list[str]:
    paths = []
    for seed, size in enumerate([(61, 94), (80, 40)]):
        paths.append(str(tmp_path / f"image_{seed}.png"))
        Image.fromarray(noise_image(seed, size)).save(paths[-1])
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("system", ["unified", "unified, merger", "cops"])
def test_export_and_run(tmp_path, images, capsys, system):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"exports need {name}: pip install -e .[export]")
    if system.startswith("unified"):
        keys = MERGER if system.endswith("merger") else {}
        cfg = model_factory.tiny_config({**SIZES, **keys})
        model = model_factory.lively_model(keys)
        checkpoint = saved(tmp_path, cfg, model, model_factory.IS_THING)
    else:
        cfg, model = cops_factory.tiny_config(SIZES), cops_factory.tiny_model()
        checkpoint = saved(tmp_path, cfg, model, cops_factory.IS_THING)
    folder = tmp_path / "exported"
    assert export.main([str(checkpoint), "--output", str(folder), "--images", *images]) == 0
    printed = capsys.readouterr().out
    assert "2 of 2 panoptic maps are equal" in printed
    # In a process of its own: this one has imported torch.
    command = [sys.executable, "-c", RUN, str(folder), *images, "--output", str(tmp_path / "out")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    content = json.loads((tmp_path / "out/panoptic.json").read_text())
    for entry, size in zip(content["annotations"], [(61, 94), (80, 40)], strict=True):
        ids = read_id_map(tmp_path / "out/panoptic" / entry["file_name"])
        assert ids.shape == size
        assert {s["id"] for s in entry["segments_info"]} == set(np.unique(ids).tolist()) - {0}
    assert (tmp_path / "out/image_0_panoptic.jpg").stat().st_size > 500
    forge_manifest(folder, images[:1], tmp_path / "forged", capsys)


NONSENSE = (None, -1, 0, 2**70, float("nan"), float("inf"), True, "", "x", [], {}, [[]], "../x")


def places_in(value, place=()):
    """Give the place of each value inside nested dicts and lists, containers included."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        yield (*place, key)
        if isinstance(inner, (dict, list)):
            yield from places_in(inner, (*place, key))


def forge_manifest(folder, images, out, capsys, tries=60):
    """Put nonsense into one place of model.json after the other: a sentence, or a result."""
    path = folder / "model.json"
    sound = path.read_text()
    places = list(places_in(json.loads(sound)))
    draw, refused = random.Random(0), 0
    for _ in range(tries):
        content = json.loads(sound)
        *above, last = draw.choice(places)
        node = content
        for key in above:
            node = node[key]
        node[last] = draw.choice(NONSENSE)
        path.write_text(json.dumps(content))
        status = run_exported.main([str(folder), *images, "--output", str(out)])
        said = capsys.readouterr().err
        assert status in (0, 2) and said.count("\n") == (status == 2), (above, last, node[last])
        refused += status == 2
    path.write_text(sound)
    assert refused > tries / 2


def test_missing_packages_are_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "x.pth").write_bytes(b"x")
    find = export.importlib.util.find_spec
    monkeypatch.setattr(
        export.importlib.util, "find_spec", lambda name: None if "onnx" in name else find(name)
    )
    with pytest.raises(SystemExit) as ended:
        export.main([str(tmp_path / "x.pth"), "--output", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "onnx, onnxscript, onnxruntime missing: pip install" in capsys.readouterr().err


def test_a_folder_that_is_no_export_is_refused(tmp_path, images, capsys):
    assert run_exported.main([str(tmp_path), *images]) == 2
    message = capsys.readouterr().err
    assert "give a folder that panoptic-export has written" in message
    assert message.count("\n") == 1


def test_images_of_one_name_are_refused(tmp_path, images, capsys):
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / Path(images[0]).name
    twin.write_bytes(Path(images[0]).read_bytes())
    with pytest.raises(SystemExit):
        run_exported.main([str(tmp_path), images[0], str(twin)])
    assert "several images are called image_0" in capsys.readouterr().err
