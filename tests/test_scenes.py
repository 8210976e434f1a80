"""Tests of the synthetic scenes: exact truth, reproducibility, variety, safe storage."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from panoptic_common import scenes
from panoptic_common.scene_textures import CIRCLE, Draws, cosine, polygon_mask, sine, value_noise
from panoptic_common.scenes import CLASSES, Scene, SceneConfig, make_scene, write_scenes

ROOT = Path(__file__).resolve().parent.parent
SMALL = SceneConfig(height=64, width=96)
THINGS = {entry["id"] for entry in CLASSES if entry["isthing"]}

# Made by `python -m tests.test_scenes`; a new value needs a new VERSION in scene_composition.
REMEMBERED = {
    (0, 192, 384, 0.5): "2599ea71377958cb55052877dad11c97905362dbfa0ecc98aa900f609852b1af",
    (1, 192, 384, 1.0): "4e66eab22a525838c7eda9673782241976c4b9d886c7cbbddaf35a5a205e7b9d",
    (2, 75, 131, 0.0): "538a9ad845d96b2d097f81ec591a6493cd7f3b845bbcb1b9dd59a15bc231fd14",
}


def digest(scene: Scene) -> str:
    """SHA-256 of the decoded arrays, independent of the byte order of the machine."""
    state = hashlib.sha256(scene.image.tobytes())
    state.update(scene.id_map.astype("<i4").tobytes())
    return state.hexdigest()


@pytest.fixture(scope="module")
def sample() -> list[Scene]:
    """Forty scenes of the default size and difficulty."""
    return [make_scene(seed) for seed in range(40)]


def thing_segments(scene: Scene) -> list[dict]:
    return [s for s in scene.segments_info if s["isthing"] and not s["iscrowd"]]


# ------------------------------------------------------------------------- exact ingredients


def test_sines_are_the_rounded_sines() -> None:
    for step in range(-70, 140):
        assert sine(step) == round(65536 * np.sin(step * np.pi / 32))
        assert cosine(step) == round(65536 * np.cos(step * np.pi / 32))


def test_draws_follow_the_documented_stream() -> None:
    # Multiply-shift by hand: 32 high bits of each raw number, times 6, without the low 32 bits.
    raw = np.random.PCG64(np.random.SeedSequence([3, 4])).random_raw(50)
    draws = Draws(3, 4)
    assert [draws.integer(1, 6) for _ in range(50)] == [1 + ((int(r) >> 32) * 6 >> 32) for r in raw]


def test_draws_reach_both_ends_evenly() -> None:
    draws = Draws(0)
    counts = np.bincount([draws.integer(0, 4) for _ in range(5000)], minlength=5)
    assert len(counts) == 5 and counts.min() > 850  # expected 1000, standard deviation 28


def test_noise_meets_its_lattice() -> None:
    # At lattice points the weights are 0: the noise is the drawn byte itself.
    lattice = Draws(7).octets(40 // 8 + 2, 60 // 5 + 2)
    noise = value_noise(Draws(7), 40, 60, 8, 5)
    assert np.array_equal(noise[::8, ::5], lattice[:5, :12])
    assert noise.min() >= 0 and noise.max() <= 255


def is_inside(points: np.ndarray, x: int, y: int) -> bool:
    """The even-odd rule, point by point, with Python integers of any length."""
    inside = False
    for (xa, ya), (xb, yb) in zip(points.tolist(), np.roll(points, -1, 0).tolist(), strict=True):
        if (ya <= y) != (yb <= y):
            # x is at or right of the crossing; multiplied out, so that nothing is rounded
            side = (x - xa) * (yb - ya) - (y - ya) * (xb - xa)
            inside ^= side >= 0 if yb > ya else side <= 0
    return inside


@given(
    st.lists(st.tuples(st.integers(-900, 5000), st.integers(-900, 4000)), min_size=3, max_size=8)
)
@settings(max_examples=60, deadline=None)
def test_polygons_are_filled_as_by_the_even_odd_rule(vertices: list[tuple[int, int]]) -> None:
    points, height, width = np.array(vertices, np.int64), 12, 16
    mask = np.zeros((height, width), bool)
    found = polygon_mask(points, height, width)
    if found is not None:
        mask[found[0], found[1]] = found[2]
    for row in range(height):
        for column in range(width):
            # Half a unit less than a pixel's floor rule: crossings are rounded down to 1/256 pixel.
            x, y = 256 * column + 128, 256 * row + 128
            exact = {is_inside(points, x, y), is_inside(points, x + 1, y)}
            assert mask[row, column] in exact


def test_polygons_that_share_an_edge_partition_the_plane() -> None:
    fan = [np.array([(1500, 1100), *(CIRCLE[[i, (i + 1) % 32]] * 8000 >> 16)]) for i in range(32)]
    hits = np.zeros((20, 20), int)
    for triangle in fan:
        triangle[1:] += (1500, 1100)
        found = polygon_mask(triangle, 20, 20)
        if found is not None:
            hits[found[0], found[1]] += found[2]
    assert (hits == 1).all()  # a circle of radius 8000 / 256 covers all 20 x 20 pixels


# ---------------------------------------------------------------------------- reproducibility


@pytest.mark.parametrize("case", REMEMBERED, ids=str)
def test_remembered_scenes(case: tuple[int, int, int, float]) -> None:
    seed, height, width, difficulty = case
    assert digest(make_scene(seed, SceneConfig(height, width, difficulty))) == REMEMBERED[case]


def test_equal_seeds_give_equal_scenes_in_another_process() -> None:
    code = (
        "from tests.test_scenes import *; print(digest(make_scene(5, SMALL)), "
        "scenes.scene_seed(0, 'train', 3))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True
    )
    expected = f"{digest(make_scene(5, SMALL))} {scenes.scene_seed(0, 'train', 3)}"
    assert output.stdout.decode().strip() == expected


def test_scenes_differ_between_seeds_splits_and_data_sets() -> None:
    assert len({digest(make_scene(seed, SMALL)) for seed in range(6)}) == 6
    keys = [(s, split, i) for s in (0, 1) for split in ("train", "val") for i in range(500)]
    assert len({scenes.scene_seed(*key) for key in keys}) == len(keys)


# ------------------------------------------------------------------------------- exact truth


def check_truth(scene: Scene, config: SceneConfig) -> None:
    """Everything that `segments_info` says follows from the map, and the other way round."""
    assert scene.image.shape == (config.height, config.width, 3) and scene.image.dtype == np.uint8
    assert scene.id_map.shape == (config.height, config.width) and scene.id_map.dtype == np.int32
    listed = [segment["id"] for segment in scene.segments_info]
    assert listed == sorted(set(np.unique(scene.id_map).tolist()) - {0})
    for segment in scene.segments_info:
        rows, columns = np.nonzero(scene.id_map == segment["id"])
        left, top, width, height = segment["bbox"]
        assert segment["area"] == len(rows) >= config.min_pixels
        assert (left, top) == (columns.min(), rows.min())
        assert (width, height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
        entry = CLASSES[segment["category_id"] - 1]
        assert entry["id"] == segment["category_id"] and entry["isthing"] == segment["isthing"]
        assert not segment["iscrowd"] or segment["isthing"]
    stuff = [s["category_id"] for s in scene.segments_info if not s["isthing"]]
    assert len(stuff) == len(set(stuff))  # one segment for each stuff class


@given(
    seed=st.integers(0, 2**48 - 1),
    height=st.integers(32, 150),
    width=st.integers(32, 200),
    difficulty=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
@settings(max_examples=25, deadline=None)
def test_truth_of_any_size_and_seed(seed: int, height: int, width: int, difficulty: float) -> None:
    config = SceneConfig(height, width, difficulty)
    check_truth(make_scene(seed, config), config)


@pytest.mark.parametrize("size", [(64, 96), (512, 1024), (193, 385), (32, 700), (700, 32)])
def test_truth_of_particular_sizes(size: tuple[int, int]) -> None:
    config = SceneConfig(*size)
    scene = make_scene(11, config)
    check_truth(scene, config)
    assert len(scene.segments_info) >= 3


def test_things_scale_with_the_picture() -> None:
    def mean_share(config: SceneConfig) -> float:
        areas = [s["area"] for i in range(12) for s in thing_segments(make_scene(i, config))]
        return float(np.mean(areas)) / (config.height * config.width)

    assert mean_share(SceneConfig(96, 192)) == pytest.approx(mean_share(SceneConfig()), rel=0.1)


# ----------------------------------------------------------------------------------- variety


def test_class_table() -> None:
    assert [entry["id"] for entry in CLASSES] == list(range(1, len(CLASSES) + 1))
    assert sum(entry["isthing"] for entry in CLASSES) >= 5 <= len(CLASSES) - len(THINGS)
    assert len({tuple(entry["color"]) for entry in CLASSES}) == len(CLASSES)


def test_every_class_occurs_and_fills_some_pictures(sample: list[Scene]) -> None:
    seen = [s["category_id"] for scene in sample for s in scene.segments_info if s["area"] > 800]
    assert set(seen) == {entry["id"] for entry in CLASSES}


def test_hard_cases_occur_often_but_not_always(sample: list[Scene]) -> None:
    config, things = SceneConfig(), 0
    several, cut, tiny, crowds, void, touching = 0, 0, 0, 0, 0, 0
    for scene in sample:
        crowds += any(s["iscrowd"] for s in scene.segments_info)
        void += bool((scene.id_map == 0).any())
        left, right = scene.id_map[:, :-1], scene.id_map[:, 1:]
        same_class = (left != right) & (left // 1000 == right // 1000) & (left % 1000 > 0)
        touching += bool(same_class.any())
        for segment in thing_segments(scene):
            things += 1
            labels, count = ndimage.label(scene.id_map == segment["id"])
            sizes = np.bincount(labels.ravel())[1:]
            several += (sizes >= 20).sum() > 1
            x, y, w, h = segment["bbox"]
            cut += x == 0 or y == 0 or x + w == config.width or y + h == config.height
            tiny += segment["area"] < 150
    pictures = len(sample)
    assert 6 <= things / pictures <= 10
    assert 0.05 < several / things < 0.5
    assert 0.1 < cut / things < 0.5
    assert 0.01 < tiny / things < 0.12
    assert 0.1 < crowds / pictures < 0.6
    assert 0.2 < void / pictures < 0.95
    assert 0.4 < touching / pictures < 1


def test_void_stays_small(sample: list[Scene]) -> None:
    assert 0.002 < np.mean([(scene.id_map == 0).mean() for scene in sample]) < 0.05


def test_classes_cannot_be_told_by_their_mean_colour_alone(sample: list[Scene]) -> None:
    """A nearest-mean classifier on pixel colours gets some right, far from all."""
    pixels = np.concatenate([scene.image[::6, ::6].reshape(-1, 3) for scene in sample]).astype(int)
    labels = np.concatenate([scene.id_map[::6, ::6].ravel() // 1000 for scene in sample])
    pixels, labels = pixels[labels > 0], labels[labels > 0]
    means = np.array([pixels[labels == entry["id"]].mean(axis=0) for entry in CLASSES])
    guess = ((pixels[:, None] - means) ** 2).sum(axis=2).argmin(axis=1) + 1
    recall = np.mean([(guess == k)[labels == k].mean() for k in range(1, len(CLASSES) + 1)])
    assert 1.5 / len(CLASSES) < recall < 0.5


def difficulty_measures(difficulty: float) -> tuple[float, float, float]:
    """Mean number of things, share of things in several pieces, and noise of sky pixels."""
    things, several, noise = 0, 0, []
    for seed in range(30):
        scene = make_scene(seed, SceneConfig(96, 192, difficulty))
        for segment in thing_segments(scene):
            things += 1
            _, count = ndimage.label(scene.id_map == segment["id"])
            several += count > 1
        grey = scene.image[:, :, 1].astype(float)
        curvature = np.abs(grey[:-2] - 2 * grey[1:-1] + grey[2:])
        noise.append(np.median(curvature))
    return things / 30, several / things, float(np.mean(noise))


def test_difficulty_brings_more_things_more_occlusion_and_more_noise() -> None:
    measures = [difficulty_measures(difficulty) for difficulty in (0.0, 0.5, 1.0)]
    for easier, harder in zip(measures, measures[1:], strict=False):
        assert all(a < b for a, b in zip(easier, harder, strict=True)), measures


def upsampled_truth(ids: np.ndarray, stride: int = 4) -> np.ndarray:
    """The best map a network at this stride can give: exact shares, upsampled, arg max."""
    height, width = ids.shape
    best, result = np.full(ids.shape, -1.0), np.zeros_like(ids)
    for segment in np.unique(ids):
        blocks = (ids == segment).reshape(height // stride, stride, width // stride, stride)
        score = ndimage.zoom(
            blocks.mean(axis=(1, 3)), stride, order=1, mode="nearest", grid_mode=True
        )
        result[score > best] = segment
        best = np.maximum(best, score)
    return result


def panoptic_quality(pairs: list[tuple[Scene, np.ndarray]]) -> dict[str, float]:
    """PQ in percent of maps that use the ids of the truth, by the definition; crowds left out."""
    total = np.zeros((len(CLASSES) + 1, 3))  # sum of IoU, matches, segments on both sides
    for scene, predicted in pairs:
        for segment in scene.segments_info:
            if segment["iscrowd"]:
                continue
            true, guess = scene.id_map == segment["id"], predicted == segment["id"]
            union = np.count_nonzero(true | (guess & (scene.id_map > 0)))
            overlap = np.count_nonzero(true & guess) / union
            matched = overlap > 0.5
            total[segment["category_id"]] += (overlap * matched, matched, 1 + guess.any())
    quality = 100 * total[1:, 0] / (total[1:, 2] / 2)  # TP + FP/2 + FN/2 = half of all segments
    thing = np.array([entry["isthing"] for entry in CLASSES], bool)
    return {"all": quality.mean(), "things": quality[thing].mean(), "stuff": quality[~thing].mean()}


def test_stride_4_can_represent_the_truth(sample: list[Scene]) -> None:
    quality = panoptic_quality([(scene, upsampled_truth(scene.id_map)) for scene in sample])
    assert min(quality.values()) > 95, quality
    # Nearest neighbour moves each border by one pixel on average, which no figure with limbs
    # survives at 95: a disc of diameter D keeps an IoU of about 1 - 4/D, 0.95 at 80 pixels.
    nearest = [s.id_map[2::4, 2::4].repeat(4, axis=0).repeat(4, axis=1) for s in sample]
    quality = panoptic_quality(list(zip(sample, nearest, strict=True)))
    assert min(quality.values()) > 85, quality


# ----------------------------------------------------------------------------------- on disk


def load_split(paths: scenes.ScenePaths) -> tuple[dict, dict]:
    return json.loads(paths.panoptic_json.read_text()), json.loads(paths.instances_json.read_text())


def read_ids(path: Path) -> np.ndarray:
    rgb = np.asarray(Image.open(path)).astype(np.int64)
    return rgb[:, :, 0] + 256 * rgb[:, :, 1] + 65536 * rgb[:, :, 2]


def test_files_hold_the_scenes(tmp_path: Path) -> None:
    from pycocotools import mask as rle

    config = SceneConfig(96, 160)
    paths = write_scenes(tmp_path, "train", 5, seed=9, config=config)
    panoptic, instances = load_split(paths)
    assert [entry["isthing"] for entry in panoptic["categories"]] == [c["isthing"] for c in CLASSES]
    assert {entry["id"] for entry in instances["categories"]} == THINGS
    assert len(panoptic["images"]) == len(panoptic["annotations"]) == 5
    files = sorted(path.name for path in paths.panoptic_png.iterdir())
    assert files == sorted(path.name for path in paths.images.iterdir())
    assert files == [annotation["file_name"] for annotation in panoptic["annotations"]]
    assert [a["id"] for a in instances["annotations"]] == list(
        range(1, len(instances["annotations"]) + 1)
    )
    for image, annotation in zip(panoptic["images"], panoptic["annotations"], strict=True):
        assert annotation["image_id"] == image["id"]
        scene = make_scene(scenes.scene_seed(9, "train", image["id"]), config)
        ids = read_ids(paths.panoptic_png / annotation["file_name"])
        assert np.array_equal(
            np.asarray(Image.open(paths.images / image["file_name"])), scene.image
        )
        assert np.array_equal(ids, scene.id_map)
        expected = [{k: v for k, v in s.items() if k != "isthing"} for s in scene.segments_info]
        assert annotation["segments_info"] == expected
        mine = [a for a in instances["annotations"] if a["image_id"] == image["id"]]
        things = [s for s in scene.segments_info if s["isthing"]]
        assert len(mine) == len(things)
        for instance, segment in zip(mine, things, strict=True):
            assert np.array_equal(rle.decode(instance["segmentation"]) == 1, ids == segment["id"])
            keys = ("category_id", "iscrowd", "area", "bbox")
            assert [instance[k] for k in keys] == [segment[k] for k in keys]


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_workers_do_not_change_the_result(tmp_path: Path) -> None:
    write_scenes(tmp_path / "one", "val", 5, config=SMALL)
    write_scenes(tmp_path / "two", "val", 5, config=SMALL, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_finished_split_is_kept_and_splits_share_a_root(tmp_path: Path) -> None:
    paths = write_scenes(tmp_path, "train", 3, config=SMALL)
    write_scenes(tmp_path, "val", 2, config=SMALL)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert write_scenes(tmp_path, "train", 3, config=SMALL) == paths
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")} == before


@pytest.mark.parametrize(
    "damage", ["settings", "missing picture", "no panoptic json", "no instances", "cut json"]
)
def test_other_or_damaged_splits_are_made_anew(tmp_path: Path, caplog, damage: str) -> None:
    paths = write_scenes(tmp_path, "train", 3, config=SMALL)
    good, config = contents(tmp_path), SMALL
    if damage == "settings":
        config = SceneConfig(64, 96, difficulty=0.9)
    elif damage == "missing picture":
        (paths.images / "000001.png").unlink()
    elif damage == "no panoptic json":
        paths.panoptic_json.unlink()
    elif damage == "no instances":
        paths.instances_json.unlink()
    else:
        paths.panoptic_json.write_bytes(paths.panoptic_json.read_bytes()[:-40])
    with caplog.at_level("WARNING"):
        write_scenes(tmp_path, "train", 3, config=config)
    assert "made anew" in caplog.text
    assert (contents(tmp_path) == good) == (config == SMALL)
    assert set(contents(tmp_path)) == set(good)


def test_a_killed_run_leaves_nothing_that_looks_finished(tmp_path: Path, monkeypatch) -> None:
    real, made = scenes.make_scene, []

    def stop_at_third(seed: int, config: SceneConfig) -> Scene:
        made.append(seed)
        if len(made) == 3:
            raise KeyboardInterrupt
        return real(seed, config)

    monkeypatch.setattr(scenes, "make_scene", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path, "train", 4, config=SMALL)
    assert contents(tmp_path) == {}
    # SIGKILL runs no clean-up: its folder stays until the next run.
    leftover = tmp_path / ".train.partial-999999" / "split"
    leftover.mkdir(parents=True)
    paths = write_scenes(tmp_path, "train", 4, config=SMALL)
    assert len(list(paths.images.iterdir())) == 4
    assert not list(tmp_path.glob(".train.partial-*"))


def test_concurrent_writers_make_one_split(tmp_path: Path) -> None:
    code = (
        "import sys; from panoptic_common.scenes import *; "
        "write_scenes(sys.argv[1], 'train', 6, config=SceneConfig(64, 96))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "both")]
    running = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    write_scenes(tmp_path / "alone", "train", 6, config=SMALL)
    assert contents(tmp_path / "both") == contents(tmp_path / "alone")


def test_threads_of_one_process_wait_for_each_other(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=write_scenes, args=(tmp_path, "train", 4, 0, SMALL))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(list((tmp_path / "train" / "images").iterdir())) == 4
    assert not list(tmp_path.glob(".train.partial-*"))


def test_foreign_files_are_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "precious.png").write_bytes(b"x")
    with pytest.raises(FileExistsError, match="not made by write_scenes"):
        write_scenes(tmp_path, "train", 1, config=SMALL)
    shutil.rmtree(tmp_path / "train")
    (tmp_path / "panoptic_train.json").write_text('{"images": []}')
    with pytest.raises(FileExistsError, match="panoptic_train.json"):
        write_scenes(tmp_path, "train", 1, config=SMALL)
    assert (tmp_path / "panoptic_train.json").read_text() == '{"images": []}'


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"height": 31}, "height"),
        ({"width": 5000}, "width"),
        ({"width": 96.0}, "width"),
        ({"difficulty": 1.5}, "difficulty"),
        ({"difficulty": float("nan")}, "difficulty"),
        ({"min_pixels": 0}, "min_pixels"),
    ],
)
def test_bad_configs_are_refused(change: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SceneConfig(**change)


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed"):
        make_scene(-1)
    for arguments in (("../up", 1, 0), ("", 1, 0), ("train", 0, 0), ("train", 1, -1)):
        with pytest.raises(ValueError, match="write_scenes"):
            write_scenes(tmp_path, *arguments)
    with pytest.raises(ValueError, match="workers"):
        write_scenes(tmp_path, "train", 1, workers=0)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------- the tool


def run_tool(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/make_scenes.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_tool_writes_a_split_and_a_sheet(tmp_path: Path) -> None:
    options = ("--height", 64, "--width", 96, "--number", 3)
    sheet = tmp_path / "sheet.png"
    done = run_tool("--output", tmp_path / "set", *options, "--contact-sheet", sheet)
    assert done.returncode == 0, done.stderr
    assert "scenes a minute" in done.stdout
    # Two columns of (picture | truth), two rows, the last cell empty.
    assert Image.open(sheet).size == (4 * 96, 2 * 64)
    picture = Image.open(tmp_path / "set" / "train" / "images" / "000000.png")
    assert np.array_equal(np.asarray(Image.open(sheet))[:64, :96], np.asarray(picture))


def test_tool_explains_bad_input(tmp_path: Path) -> None:
    assert "--contact-sheet" in run_tool().stderr
    done = run_tool("--output", tmp_path, "--difficulty", 7)
    assert done.returncode == 1 and "difficulty" in done.stderr and "Traceback" not in done.stderr


if __name__ == "__main__":
    for remembered in REMEMBERED:
        print(remembered, digest(make_scene(remembered[0], SceneConfig(*remembered[1:]))))
