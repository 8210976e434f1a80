"""What tools/demo.py leaves after SIGTERM and Ctrl-C: what is done, whole, and nothing else."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from stub_system import stub_predictor

from panoptic_common.checkpoint.finite import NotFiniteError
from panoptic_common.inference import media
from panoptic_common.inference.painter import Painter
from panoptic_common.inference.video import VideoReader, VideoWriter
from panoptic_tools import demo, demo_run

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def as_in_a_terminal() -> Iterator[None]:
    """Heed Ctrl-C: a shell starts programs in its background with that signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.Predictor, "from_checkpoint", lambda *a, **k: stub_predictor())


def send_at(monkeypatch: pytest.MonkeyPatch, place: object, name: str, call: int, number) -> None:
    """Let a call of a function be preceded by a signal to this process."""
    function, calls = getattr(place, name), []

    def wrapped(*args, **kwargs):
        calls.append(None)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    monkeypatch.setattr(place, name, wrapped)


def whole(folder: Path) -> set[str]:
    """Names of all files below a folder, whose images are decoded and whose JSON is read."""
    for path in folder.rglob("*"):
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".json":
            json.loads(path.read_text())
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("moment", ["while it predicts", "while it writes"])
def test_images_that_are_done_stay_whole(stub, tmp_path, monkeypatch, capsys, number, moment):
    """The signal comes at the second of three images."""
    (tmp_path / "in").mkdir()
    for name in "abc":
        Image.new("RGB", (60, 40), "red").save(tmp_path / "in" / f"{name}.png")
    if moment == "while it predicts":
        send_at(monkeypatch, Painter, "__call__", 2, number)
    else:
        send_at(monkeypatch, media.Image.Image, "save", 4, number)  # map and image of a, map of b
    out = tmp_path / "out"
    words = ["--checkpoint", "any.pth", str(tmp_path / "in"), "--output", str(out), "--json"]
    assert demo.main([*words, "--panels", "image,contact_sheet"]) == 128 + number
    told = capsys.readouterr()
    sentence = f"demo.py: ended by {number.name}: 1 of 3 inputs are done, and whole\n"
    assert told.err.endswith(sentence) and "1 done" in told.out
    entries = json.loads((out / "panoptic.json").read_text())["annotations"]
    maps = {f"panoptic/{entry['file_name']}" for entry in entries}
    assert "panoptic/a.png" in maps and "panoptic/c.png" not in maps
    assert whole(out) == {"a_image.png", "contact_sheet.png", "panoptic.json", *maps}


def test_an_image_for_which_the_network_gives_nan_is_named(stub, tmp_path, monkeypatch, capsys):
    """The others are done, and the status tells."""
    (tmp_path / "in").mkdir()
    for name in "ab":
        Image.new("RGB", (60, 40), "red").save(tmp_path / "in" / f"{name}.png")
    paint = Painter.__call__

    def fail_once(self, frame):
        if frame.name == "a":
            raise NotFiniteError("the network gives NaN: use an earlier checkpoint")
        return paint(self, frame)

    monkeypatch.setattr(Painter, "__call__", fail_once)
    words = ["--checkpoint", "any.pth", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert demo.main([*words, "--panels", "image"]) == 1
    told = capsys.readouterr()
    assert f"{tmp_path}/in/a.png: the network gives NaN" in told.err and "1 done" in told.out


def write_film(path: Path) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5, (80, 48))
    for shade in range(6):
        writer.write(np.full((48, 80, 3), 40 * shade, np.uint8))
    writer.release()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_video_that_is_not_done_is_removed(stub, tmp_path, monkeypatch, number):
    write_film(tmp_path / "film.avi")
    send_at(monkeypatch, VideoWriter, "write", 4, number)
    words = ["--checkpoint", "any.pth", str(tmp_path / "film.avi")]
    out = tmp_path / "out"
    assert demo.main([*words, "--output", str(out), "--panels", "image"]) == 128 + number
    assert whole(out) == set()


@pytest.mark.parametrize("number", SIGNALS)
def test_what_a_camera_has_seen_is_kept(stub, tmp_path, monkeypatch, number):
    """Ctrl-C is its regular end."""
    write_film(tmp_path / "film.avi")
    monkeypatch.setattr(
        demo_run, "VideoReader", lambda source, name: VideoReader(tmp_path / "film.avi", name)
    )
    send_at(monkeypatch, VideoWriter, "write", 4, number)
    words = ["--checkpoint", "any.pth", "--webcam", "0", "--output", str(tmp_path / "out")]
    status = demo.main([*words, "--panels", "image"])
    assert status == (0 if number == signal.SIGINT else 143)
    (video,) = (tmp_path / "out").iterdir()
    assert len(list(VideoReader(video, "seen"))) == 3


def test_a_signal_before_the_first_image(tmp_path, monkeypatch, capsys):
    """While the weights are read."""

    def read(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(demo.Predictor, "from_checkpoint", read)
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    words = ["--checkpoint", "any.pth", str(tmp_path / "a.png"), "--output", str(tmp_path / "out")]
    assert demo.main(words) == 143
    assert capsys.readouterr().err == "demo.py: ended by SIGTERM\n"
    assert not (tmp_path / "out").exists()


def test_what_it_reads_is_not_overwritten(stub, tmp_path, capsys):
    """Drawings of an earlier run beside the images, all named once more as input and output."""
    for name in ("a.png", "a_panoptic.png"):
        Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / name)
    before = (tmp_path / "a_panoptic.png").read_bytes()
    (tmp_path / "stub.pth").touch()
    words = [str(tmp_path), "--checkpoint", str(tmp_path / "stub.pth"), "--output", str(tmp_path)]
    assert demo.main(words) == 2
    said = capsys.readouterr().err
    assert "a_panoptic.png: it would replace what" in said and said.count("\n") == 1
    assert (tmp_path / "a_panoptic.png").read_bytes() == before
