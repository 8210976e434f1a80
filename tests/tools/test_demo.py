"""tools/demo.py and the predictor under it, with an untrained model that a checkpoint carries."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import panoptic_common.compat  # noqa: F401  (before detectron2)

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from PIL import Image
from project import ROOT

from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.config import fill_classes
from panoptic_common.data.catalog import load_panoptic, register_panoptic
from panoptic_common.inference.predictor import Predictor
from panoptic_common.scenes.storage import CLASSES, SceneConfig, make_scene
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


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    specification = importlib.util.spec_from_file_location("demo", ROOT / "tools/demo.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


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


def test_every_kind_of_image_gives_its_panels(demo, checkpoint, images, tmp_path, capsys):
    out = tmp_path / "out"
    assert demo.main(["--checkpoint", checkpoint, str(images), "--output", str(out)]) == 0
    assert "4 done" in capsys.readouterr().out
    found = sorted(path.name for path in out.iterdir())
    assert found == sorted(f"{n}_{p}.png" for n in "abcd" for p in ("panoptic", "boxes"))
    assert size_of(out / "a_panoptic.png") == (99 * 5, 65 * 5)  # enlarged to about 512
    width, height = size_of(out / "d_boxes.png")
    assert height > width  # turned upright


def test_panels_affinity_and_contact_sheet(demo, checkpoint, images, tmp_path):
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


def test_an_affinity_outside_the_image_is_that_images_error(
    demo, checkpoint, images, tmp_path, capsys
):
    arguments = ["--checkpoint", checkpoint, str(images), "--output", str(tmp_path / "out")]
    assert demo.main([*arguments, "--affinity", "80,30", "--panels", "affinity"]) == 1
    captured = capsys.readouterr()
    assert "2 done" in captured.out and "2 failed" in captured.err
    # b is 70 wide, d is 65 wide once upright
    assert "b.png: pixel (80.0, 30.0) lies outside" in captured.err and "d.jpg" in captured.err


def test_json_is_a_data_set_of_its_own(demo, checkpoint, images, tmp_path):
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


def test_unreadable_files_do_not_stop_the_others(demo, checkpoint, images, tmp_path, capsys):
    (images / "b.png").write_bytes(b"no image")
    out = tmp_path / "out"
    assert demo.main(["--checkpoint", checkpoint, str(images), "--output", str(out)]) == 1
    captured = capsys.readouterr()
    assert "3 done" in captured.out
    assert "1 failed" in captured.err and "b.png: cannot be read as an image" in captured.err
    assert (out / "d_panoptic.png").is_file() and not (out / "b_panoptic.png").exists()


def test_video_in_video_out(demo, checkpoint, tmp_path):
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


def test_large_images_are_reduced(demo, checkpoint, images, tmp_path):
    arguments = ["--checkpoint", checkpoint, str(images / "a.png"), "--max-side", "40"]
    arguments += ["--output", str(tmp_path / "out"), "--json", "--affinity", "98,64"]
    assert demo.main(arguments) == 0
    assert size_of(tmp_path / "out/panoptic/a.png") == (40, 26)


@pytest.mark.parametrize("shape", [(1, 1), (7, 400), (500, 3), (33, 31)])
def test_any_size_is_predicted_at_its_own_size(checkpoint, shape):
    predictor = Predictor.from_checkpoint(checkpoint)
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3)).astype(np.uint8)
    found = predictor(image)
    assert found.id_map.shape == found.semantic.shape == shape
    assert predictor.affinity(image, shape[1] - 1, shape[0] - 1).shape == shape
    present = set(np.unique(found.id_map).tolist()) - {0}
    assert present == {segment["id"] for segment in found.segments_info}


def test_boxes_carry_contiguous_classes_of_things(checkpoint):
    predictor = Predictor.from_checkpoint(checkpoint)
    found = predictor(make_scene(3, SceneConfig(height=64, width=96)).image)
    assert len(found.boxes) == 5
    assert all(CLASSES[k]["isthing"] for k in found.classes.tolist())


def test_the_channel_order_is_that_of_the_config(checkpoint):
    bgr = Predictor.from_checkpoint(checkpoint)
    rgb = Predictor.from_checkpoint(checkpoint, opts=["INPUT.FORMAT", "RGB"])
    image = make_scene(3, SceneConfig(height=64, width=96)).image
    first, second = bgr(image), rgb(np.ascontiguousarray(image[:, :, ::-1]))
    np.testing.assert_array_equal(first.scores, second.scores)
    assert not np.array_equal(first.scores, rgb(image).scores)


def test_score_threshold_reaches_the_panoptic_map(checkpoint):
    image = make_scene(3, SceneConfig(height=64, width=96)).image
    found = Predictor.from_checkpoint(checkpoint, score_threshold=0.99)(image)
    assert len(found.boxes) == 5  # the detections are still there to be drawn
    assert not any(segment["isthing"] for segment in found.segments_info)


def test_affinity_follows_the_image_not_the_padding(checkpoint, monkeypatch):
    predictor = Predictor.from_checkpoint(checkpoint, opts=["INPUT.MIN_SIZE_TEST", "0"])
    # 90 columns are 23 cells of 4 pixels; a ramp over the cells must end at 90 of 92 pixels.
    ramp = torch.arange(23.0).repeat(17, 1)
    monkeypatch.setattr(predictor.model, "affinity_of_pixel", lambda inputs, x, y: ramp)
    painted = predictor.affinity(np.zeros((66, 90, 3), np.uint8), 0, 0)
    # pixel 45 has its centre at 45.5, that is (45.5 - 2) / 4 = 10.875 cells after the first centre
    assert painted[30, 45] == pytest.approx(10.875, abs=1e-3)


# ---- systems that cut a graph -------------------------------------------------------------------


class WithGraph(torch.nn.Module):
    """A model that also gives the maps of a graph on a grid of 4 pixels a cell, as COPS does."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: list[dict]) -> list[dict]:
        outputs = self.model(batch)
        for inputs, output in zip(batch, outputs, strict=True):
            height, width = (-(-n // 4) for n in inputs["image"].shape[1:])
            ramp = torch.arange(width).expand(height, width) / (width - 1)
            output["affinity_map"] = ramp
            output["cut_edges"] = torch.zeros(height, width)
            output["cut_edges"][:, 10] = 1
        return outputs


@pytest.fixture
def graph_predictor(checkpoint, demo, monkeypatch) -> Predictor:
    """A predictor with such a model, which the demo gets, too. Images keep their size."""
    predictor = Predictor.from_checkpoint(checkpoint, opts=["INPUT.MIN_SIZE_TEST", "0"])
    predictor.model = WithGraph(predictor.model).eval()
    monkeypatch.setattr(demo.Predictor, "from_checkpoint", lambda *args, **keywords: predictor)
    return predictor


def test_maps_of_a_grid_are_stretched_without_the_padding(graph_predictor):
    found = graph_predictor(np.zeros((66, 90, 3), np.uint8))  # 17 x 23 cells, 2 pixels too many
    cells = np.arange(90) // 4
    np.testing.assert_allclose(found.affinity_map, np.broadcast_to(cells / 22, (66, 90)), rtol=1e-6)
    np.testing.assert_array_equal(found.cut_edges, np.broadcast_to(cells == 10, (66, 90)))


def test_a_map_of_no_grid_is_an_error(graph_predictor, monkeypatch):
    def forward(batch):
        return [{**graph_predictor.model.model(batch)[0], "cut_edges": torch.zeros(5, 5)}]

    monkeypatch.setattr(graph_predictor.model, "forward", forward)
    with pytest.raises(ValueError, match=r"\(5, 5\) cells is that of no grid .* 66 x 90 pixels"):
        graph_predictor(np.zeros((66, 90, 3), np.uint8))


def test_panels_of_a_graph(demo, graph_predictor, images, tmp_path):
    out = tmp_path / "out"
    arguments = ["--checkpoint", "any.pth", str(images), "--output", str(out)]
    assert demo.main([*arguments, "--panels", "cut_edges,affinities,contact_sheet"]) == 0
    names = [f"{n}_{p}.png" for n in "abcd" for p in ("affinities", "cut_edges")]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "contact_sheet.png"])
    drawn = np.asarray(Image.open(out / "a_cut_edges.png"))  # enlarged by 5
    assert tuple(drawn[30 * 5, 42 * 5]) == (255, 226, 64) != tuple(drawn[30 * 5, 45 * 5])
    heat = np.asarray(Image.open(out / "a_affinities.png")).astype(int)
    assert heat[:, 98 * 5].sum() > heat[:, 5].sum()
    # image, semantic, boxes, panoptic, affinities, cut_edges
    assert size_of(out / "contact_sheet.png")[0] == 6 + 6 * (384 + 6)


def test_a_model_without_a_graph_says_so(demo, checkpoint, images, tmp_path, capsys):
    arguments = ["--checkpoint", checkpoint, str(images / "a.png"), "--panels", "cut_edges"]
    text = run_wrongly(demo, capsys, *arguments, "--output", str(tmp_path / "out"))
    assert "leave out the panel cut_edges" in text


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


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "name images or videos"),
        (["x.png", "--webcam", "0"], "name images or videos"),
        (["x.png", "--panels", "boxes,nonsense"], "nonsense is none of"),
        (["x.png", "--panels", "affinity"], "needs a pixel"),
        (["x.png", "--affinity", "12"], "is not X,Y"),
        (["x.png", "--score-threshold", "3"], "between 0 and 1"),
        (["x.png", "--json"], "need a folder"),
        (["x.png", "--opts", "A.B"], "pairs of key and value"),
    ],
)
def test_wrong_arguments_are_explained(demo, capsys, wrong, message):
    with pytest.raises(SystemExit) as error:
        demo.main(["--checkpoint", "c.pth", *wrong])
    assert error.value.code == 2 and message in capsys.readouterr().err


def run_wrongly(demo, capsys, *arguments: str) -> str:
    assert demo.main(list(arguments)) == 2
    return capsys.readouterr().err


def test_unusable_checkpoints_are_explained_in_a_line(demo, checkpoint, images, tmp_path, capsys):
    image, out = str(images / "a.png"), ["--output", str(tmp_path / "out")]
    absent = str(tmp_path / "absent.pth")
    assert "absent.pth" in run_wrongly(demo, capsys, "--checkpoint", absent, image, *out)
    whole = Path(checkpoint).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    cut = str(tmp_path / "cut.pth")
    assert "cut.pth" in run_wrongly(demo, capsys, "--checkpoint", cut, image, *out)
    torch.save({"model": {"weight": torch.zeros(2)}}, tmp_path / "foreign.pth")
    foreign = str(tmp_path / "foreign.pth")
    assert "--config-file" in run_wrongly(demo, capsys, "--checkpoint", foreign, image, *out)
    assert "no such file" in run_wrongly(demo, capsys, "--checkpoint", checkpoint, "no.png", *out)
    arguments = ["--checkpoint", checkpoint, image, *out, "--opts", "MODEL.NONSENSE", "1"]
    assert "NONSENSE" in run_wrongly(demo, capsys, *arguments)


def test_a_model_without_affinity_says_so(demo, images, tmp_path, capsys):
    path = save(tiny_config("C2"), tmp_path)
    arguments = ["--checkpoint", path, str(images / "a.png"), "--output", str(tmp_path / "out")]
    assert "no instance affinity" in run_wrongly(demo, capsys, *arguments, "--affinity", "1,1")
    assert demo.main([*arguments, "--panels", "contact_sheet"]) == 0


def test_without_output_and_display_it_says_what_to_do(
    demo, checkpoint, images, capsys, monkeypatch
):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    text = run_wrongly(demo, capsys, "--checkpoint", checkpoint, str(images / "a.png"))
    assert "--output" in text


def test_a_window_shows_until_the_user_closes_it(demo, checkpoint, images, monkeypatch):
    shown = []

    class FakeWindow:
        def __init__(self, title: str) -> None:
            self.closed = False

        def show(self, image: np.ndarray, wait: bool) -> bool:
            shown.append((image.shape, wait))
            return len(shown) < 2

        def close(self) -> None:
            shown.append("closed")

    monkeypatch.setattr(demo, "Window", FakeWindow)
    assert demo.main(["--checkpoint", checkpoint, str(images), "--panels", "panoptic"]) == 0
    # two of the four images, each until a key is pressed; sides are made even
    assert shown == [((326, 496, 3), True), ((350, 490, 3), True), "closed"]


def test_an_absent_camera_is_an_error(demo, checkpoint, tmp_path, capsys):
    arguments = ["--checkpoint", checkpoint, "--webcam", "97", "--output", str(tmp_path / "out")]
    assert demo.main(arguments) == 1
    assert "camera 97: cannot be opened" in capsys.readouterr().err


def test_progress_tells_the_time_left(demo, capsys, monkeypatch):
    now = iter([0.0, 2.0, 4.0, 6.0])
    monkeypatch.setattr(demo.time, "monotonic", lambda: next(now))
    progress = demo.Progress("images", 10, period=3.0)
    for _ in range(3):
        progress.step()
    # said after 4 s only: 2 images, 2 s each, 8 left
    assert capsys.readouterr().err == "2/10 images, 2.00 s each, 0:00:16 left\n"
