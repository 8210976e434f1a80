"""tools/demo.py with an untrained Unified model in a checkpoint, and with the stub system."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image
from project import ROOT
from stub_system import stub_predictor

from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.config import fill_classes
from panoptic_common.data.catalog import load_panoptic, register_panoptic
from panoptic_common.inference import media
from panoptic_common.inference.predictor import Predictor
from panoptic_common.scenes.storage import CLASSES, SceneConfig, make_scene
from panoptic_tools import demo, demo_run
from unified_panoptic import add_unified_panoptic_config

TINY = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "8"),
    *("MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", "16", "MODEL.UNIFIED.DECODER.HIDDEN_CHANNELS", "16"),
    *("MODEL.UNIFIED.DECODER.CHANNELS", "8", "MODEL.UNIFIED.AFFINITY.CHANNELS", "8"),
    *("INPUT.MIN_SIZE_TEST", "64", "MODEL.UNIFIED.INFERENCE.STUFF_AREA_LIMIT", "0"),
    *("MODEL.UNIFIED.INFERENCE.SCORE_THRESH", "0.0", "TEST.DETECTIONS_PER_IMAGE", "5"),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
]


def tiny_config(leaf: str = "D2") -> CfgNode:
    cfg = get_cfg()
    add_unified_panoptic_config(cfg)
    cfg.merge_from_file(str(ROOT / f"configs/unified/scenes/{leaf}.yaml"))
    cfg.merge_from_list(TINY)
    return cfg


def save(cfg: CfgNode, folder: Path, table: list[dict] = CLASSES) -> str:
    fill_classes(cfg, table)
    torch.manual_seed(0)
    checkpointer = PanopticCheckpointer(build_model(cfg), str(folder), cfg=cfg, class_table=table)
    checkpointer.save("model", iteration=0)
    return str(folder / "model.pth")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return save(tiny_config(), tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of an RGB, a grey, an RGBA and a turned image, of four odd sizes."""
    folder = tmp_path / "images"
    folder.mkdir()
    scene = make_scene(3, SceneConfig(height=65, width=99)).image
    Image.fromarray(scene).save(folder / "a.png")
    Image.fromarray(scene[:50, :70, 0]).save(folder / "b.png")
    Image.fromarray(np.dstack([scene[:33], np.full((33, 99), 128, np.uint8)])).save(
        folder / "c.png"
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene).save(folder / "d.jpg", exif=exif)
    return folder


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_every_kind_of_image_gives_its_panels(checkpoint, images, tmp_path, capsys):
    out = tmp_path / "out"
    assert demo.main(["--checkpoint", checkpoint, str(images), "--output", str(out)]) == 0
    assert "4 done" in capsys.readouterr().out
    found = sorted(path.name for path in out.iterdir())
    assert found == sorted(f"{n}_{p}.png" for n in "abcd" for p in ("panoptic", "boxes"))
    assert size_of(out / "a_panoptic.png") == (99 * 5, 65 * 5)  # enlarged to about 512
    width, height = size_of(out / "d_boxes.png")
    assert height > width  # turned upright


def test_panels_affinity_and_contact_sheet(checkpoint, images, tmp_path):
    out = tmp_path / "out"
    arguments = ["--checkpoint", checkpoint, str(images / "a.png"), "--output", str(out)]
    arguments += ["--affinity", "40,30", "--panels", "image,semantic,affinity,contact_sheet"]
    assert demo.main(arguments) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "a_affinity.png",
        "a_image.png",
        "a_semantic.png",
        "contact_sheet.png",
    ]
    affinity = np.asarray(Image.open(out / "a_affinity.png")).astype(int)
    red, green, _ = affinity[30 * 5 + 2, 40 * 5 + 2]  # the mark is green
    assert green > red + 60


def test_an_affinity_outside_the_image_is_that_images_error(checkpoint, images, tmp_path, capsys):
    arguments = ["--checkpoint", checkpoint, str(images), "--output", str(tmp_path / "out")]
    assert demo.main([*arguments, "--affinity", "80,30", "--panels", "affinity"]) == 1
    captured = capsys.readouterr()
    assert "2 done" in captured.out and "2 failed" in captured.err
    # b is 70 wide, d is 65 wide once upright
    assert "b.png: pixel (80.0, 30.0) lies outside" in captured.err and "d.jpg" in captured.err


def test_json_is_a_data_set_of_its_own(checkpoint, images, tmp_path):
    out = tmp_path / "out"
    arguments = ["--checkpoint", checkpoint, str(images), "--output", str(out), "--json"]
    assert demo.main(arguments) == 0
    register_panoptic("demo_results", "/", out / "panoptic.json", out / "panoptic")
    records = load_panoptic("demo_results")
    assert [Path(record["file_name"]).name for record in records] == [
        "a.png",
        "b.png",
        "c.png",
        "d.jpg",
    ]
    predictor = Predictor.from_checkpoint(checkpoint)
    scene = make_scene(3, SceneConfig(height=65, width=99)).image
    ids = read_id_map(records[0]["pan_seg_file_name"])
    np.testing.assert_array_equal(ids, predictor(scene).id_map)
    for segment in records[0]["segments_info"]:
        rows, columns = np.nonzero(ids == segment["id"])
        x, y, width, height = segment["bbox"]
        assert segment["area"] == len(rows)
        assert (rows.min(), rows.max()) == (y, y + height - 1)
        assert (columns.min(), columns.max()) == (x, x + width - 1)
    content = json.loads((out / "panoptic.json").read_text())
    assert content["categories"] == CLASSES


def test_unreadable_files_do_not_stop_the_others(checkpoint, images, tmp_path, capsys):
    (images / "b.png").write_bytes(b"no image")
    out = tmp_path / "out"
    assert demo.main(["--checkpoint", checkpoint, str(images), "--output", str(out)]) == 1
    captured = capsys.readouterr()
    assert "3 done" in captured.out
    assert "1 failed" in captured.err and "b.png: cannot be read as an image" in captured.err
    assert (out / "d_panoptic.png").is_file() and not (out / "b_panoptic.png").exists()


def test_video_in_video_out(checkpoint, tmp_path):
    scene = make_scene(5, SceneConfig(height=48, width=80)).image
    writer = cv2.VideoWriter(
        str(tmp_path / "drive.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (80, 48)
    )
    for shift in range(3):
        writer.write(np.ascontiguousarray(np.roll(scene, shift, axis=1)[:, :, ::-1]))
    writer.release()
    out = tmp_path / "out"
    arguments = ["--checkpoint", checkpoint, str(tmp_path / "drive.avi"), "--output", str(out)]
    assert demo.main([*arguments, "--panels", "image,panoptic", "--json"]) == 0
    videos = [path for path in out.iterdir() if path.stem == "drive"]
    capture = cv2.VideoCapture(str(videos[0]))
    frames = [capture.read()[1] for _ in range(3)]
    assert not capture.read()[0]
    # two panels of 80 x 48, each enlarged by 6 to be legible
    assert frames[0].shape == (48 * 6, 2 * 80 * 6, 3)
    left = frames[0][:, : 80 * 6, ::-1].astype(int)
    enlarged = scene.repeat(6, axis=0).repeat(6, axis=1)
    assert np.abs(left - enlarged).mean() < 20  # the image itself, lossily
    maps = sorted((out / "panoptic").iterdir())
    assert [path.name for path in maps] == [f"drive_{n:06d}.png" for n in (1, 2, 3)]


def test_large_images_are_reduced(checkpoint, images, tmp_path):
    arguments = ["--checkpoint", checkpoint, str(images / "a.png"), "--max-side", "40"]
    arguments += ["--output", str(tmp_path / "out"), "--json", "--affinity", "98,64"]
    assert demo.main(arguments) == 0
    assert size_of(tmp_path / "out/panoptic/a.png") == (40, 26)


def test_panels_of_another_system(images, tmp_path, monkeypatch):
    """Those that need no pixel join the contact sheet, whatever they are called."""
    monkeypatch.setattr(demo.Predictor, "from_checkpoint", lambda *a, **k: stub_predictor())
    out = tmp_path / "out"
    arguments = ["--checkpoint", "any.pth", str(images), "--output", str(out)]
    assert demo.main([*arguments, "--panels", "ramp,contact_sheet"]) == 0
    names = [f"{n}_ramp.png" for n in "abcd"]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "contact_sheet.png"])
    heat = np.asarray(Image.open(out / "a_ramp.png")).astype(int)  # enlarged by 5
    assert heat[:, 98 * 5].sum() > heat[:, 5].sum()
    # image, semantic, boxes, panoptic, ramp
    assert size_of(out / "contact_sheet.png")[0] == 6 + 5 * (384 + 6)


def test_the_panel_image_may_still_be_called_picture(checkpoint, images, tmp_path):
    out = tmp_path / "out"
    arguments = ["--checkpoint", checkpoint, str(images / "a.png"), "--output", str(out)]
    assert demo.main([*arguments, "--panels", "picture"]) == 0
    assert [path.name for path in out.iterdir()] == ["a_image.png"]


def test_a_config_file_replaces_the_one_inside(checkpoint, tmp_path):
    table_json = tmp_path / "truth.json"
    image = {"id": 1, "file_name": "x.png", "height": 4, "width": 4}
    content = {"images": [image], "annotations": [], "categories": CLASSES}
    table_json.write_text(json.dumps(content))
    register_panoptic("demo_table", tmp_path, table_json, tmp_path)
    cfg = tiny_config()
    cfg.DATASETS.TRAIN = ("demo_table",)
    cfg.MODEL.UNIFIED.INFERENCE.METHOD = "heuristic"
    (tmp_path / "other.yaml").write_text(cfg.dump())
    other = str(tmp_path / "other.yaml")
    predictor = Predictor.from_checkpoint(checkpoint, config_file=other)
    assert predictor.model.options.method == "heuristic"
    assert [entry["name"] for entry in predictor.class_table] == [c["name"] for c in CLASSES]


def test_a_config_of_ones_own_needs_its_data_set_for_foreign_weights_only(
    checkpoint, images, tmp_path, capsys
):
    cfg = tiny_config()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("my_streets",)
    (tmp_path / "own.yaml").write_text(cfg.dump())
    words = ["--config-file", str(tmp_path / "own.yaml"), "--output", str(tmp_path / "out")]
    words += ["--panels", "panoptic", str(images / "a.png")]
    assert demo.main(["--checkpoint", checkpoint, *words]) == 0
    drawn = (tmp_path / "out/a_panoptic.png").read_bytes()

    bare = str(tmp_path / "bare.pth")
    torch.save(torch.load(checkpoint, weights_only=True)["model"], bare)
    assert demo.main(["--checkpoint", bare, *words]) == 2
    assert "my_streets" in capsys.readouterr().err
    image = {"id": 1, "file_name": "x.png", "height": 4, "width": 4}
    content = {"images": [image], "annotations": [], "categories": CLASSES}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    register = ["--register", "my_streets", str(images), str(tmp_path / "truth.json"), str(images)]
    try:
        assert demo.main(["--checkpoint", bare, *register, *words]) == 0
    finally:
        DatasetCatalog.pop("my_streets")
        MetadataCatalog.pop("my_streets")
    assert (tmp_path / "out/a_panoptic.png").read_bytes() == drawn


@pytest.mark.parametrize("name", ["cuda", "gpu"])
def test_a_device_that_is_not_there_is_one_sentence(
    checkpoint, images, tmp_path, capsys, monkeypatch, name
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ["--checkpoint", checkpoint, "--device", name, "--output", str(tmp_path / "out")]
    assert demo.main([*words, str(images / "a.png")]) == 2
    assert "use cpu" in capsys.readouterr().err


def test_a_full_disk_stops_the_demo_and_leaves_whole_files(
    checkpoint, images, tmp_path, capsys, monkeypatch
):
    """The second image does not fit any more: the rest is not tried, what was done is kept."""
    write, out = media.write_image, tmp_path / "out"

    def fill_up(path, image):
        if Path(path).name.startswith("b"):
            raise OSError(28, "No space left on device", str(path))
        write(path, image)

    monkeypatch.setattr(media, "write_image", fill_up)
    words = ["--checkpoint", checkpoint, "--output", str(out), "--panels", "image", str(images)]
    assert demo.main(words) == 1
    assert [path.name for path in out.iterdir()] == ["a_image.png"]
    told = capsys.readouterr()
    assert "1 done" in told.out and "stopped: [Errno 28] No space left" in told.err


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "name images or videos"),
        (["x.png", "--webcam", "0"], "name images or videos"),
        (["x.png", "--panels", "contact_sheet"], "need a folder"),
        (["x.png", "--max-side", "-1"], "must be at least 0"),
        (["--webcam", "-1"], "'-1' is no number of a camera"),
        (["--webcam", "999999999999"], "'999999999999' is no number of a camera"),
        (["x.png", "--affinity", "12"], "is not X,Y"),
        (["x.png", "--affinity", "nan,1"], "is not X,Y"),
        (["x.png", "--score-threshold", "nan"], "'nan' is not a number"),
        (["x.png", "--score-threshold", "3"], "between 0 and 1"),
        (["x.png", "--json"], "need a folder"),
        (["x.png", "--opts", "A.B"], "pairs of key and value"),
    ],
)
def test_wrong_arguments_are_explained(capsys, wrong, message):
    with pytest.raises(SystemExit) as error:
        demo.main(["--checkpoint", "c.pth", *wrong])
    assert error.value.code == 2 and message in capsys.readouterr().err


def run_wrongly(capsys, *arguments: str) -> str:
    assert demo.main(list(arguments)) == 2
    return capsys.readouterr().err


def test_unusable_checkpoints_are_explained_in_a_line(checkpoint, images, tmp_path, capsys):
    image, out = str(images / "a.png"), ["--output", str(tmp_path / "out")]
    absent = str(tmp_path / "absent.pth")
    assert "absent.pth" in run_wrongly(capsys, "--checkpoint", absent, image, *out)
    whole = Path(checkpoint).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    cut = str(tmp_path / "cut.pth")
    assert "cut.pth" in run_wrongly(capsys, "--checkpoint", cut, image, *out)
    torch.save({"model": {"weight": torch.zeros(2)}}, tmp_path / "foreign.pth")
    foreign = str(tmp_path / "foreign.pth")
    assert "--config-file" in run_wrongly(capsys, "--checkpoint", foreign, image, *out)
    assert "no such file" in run_wrongly(capsys, "--checkpoint", checkpoint, "no.png", *out)
    arguments = ["--checkpoint", checkpoint, image, *out, "--opts", "MODEL.NONSENSE", "1"]
    assert "NONSENSE" in run_wrongly(capsys, *arguments)


def test_a_model_without_affinity_says_so(images, tmp_path, capsys):
    path = save(tiny_config("C2"), tmp_path)
    arguments = ["--checkpoint", path, str(images / "a.png"), "--output", str(tmp_path / "out")]
    assert "no affinity of the marked pixel" in run_wrongly(capsys, *arguments, "--affinity", "1,1")
    assert demo.main([*arguments, "--panels", "contact_sheet"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--panels", "boxes,nonsense"],
            "nonsense is none of the panels of UnifiedPanoptic: image",
        ),
        (["--panels", "cut_edges"], "cut_edges is none of"),
        (["--panels", "affinity"], "the panel affinity needs a pixel"),
    ],
)
def test_panels_that_cannot_be_drawn_are_explained(
    checkpoint, images, tmp_path, capsys, words, message
):
    out = tmp_path / "out"
    arguments = ["--checkpoint", checkpoint, str(images / "a.png"), "--output", str(out), *words]
    assert message in run_wrongly(capsys, *arguments)
    assert not out.exists()


def test_without_output_and_display_it_says_what_to_do(checkpoint, images, capsys, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    text = run_wrongly(capsys, "--checkpoint", checkpoint, str(images / "a.png"))
    assert "--output" in text


def test_a_window_shows_until_the_user_closes_it(checkpoint, images, monkeypatch):
    shown = []

    class FakeWindow:
        def __init__(self, title: str) -> None:
            self.closed = False

        def show(self, image: np.ndarray, wait: bool) -> bool:
            shown.append((image.shape, wait))
            return len(shown) < 2

        def close(self) -> None:
            shown.append("closed")

    monkeypatch.setattr(demo_run, "Window", FakeWindow)
    assert demo.main(["--checkpoint", checkpoint, str(images), "--panels", "panoptic"]) == 0
    # two of the four images, each until a key is pressed; sides are made even
    assert shown == [((326, 496, 3), True), ((350, 490, 3), True), "closed"]


def test_an_absent_camera_is_an_error(checkpoint, tmp_path, capsys):
    arguments = ["--checkpoint", checkpoint, "--webcam", "97", "--output", str(tmp_path / "out")]
    assert demo.main(arguments) == 1
    assert "camera 97: cannot be opened" in capsys.readouterr().err
