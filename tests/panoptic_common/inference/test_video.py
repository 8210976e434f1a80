"""Videos in and out, what cannot be read, and windows where there is no display."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from panoptic_common.inference import video
from panoptic_common.inference.media import MediaError
from panoptic_common.inference.video import VideoReader, VideoWriter, Window


def write_video(path: Path, frames: list[np.ndarray], rate: float = 5.0) -> None:
    size = (frames[0].shape[1], frames[0].shape[0])
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, size)
    for frame in frames:
        writer.write(frame[:, :, ::-1].copy())
    writer.release()


def test_video_is_read_in_order_and_colour(tmp_path):
    frames = [np.full((48, 64, 3), (250, 10 * i, 20), np.uint8) for i in range(7)]
    write_video(tmp_path / "film.avi", frames, rate=5.0)
    reader = VideoReader(tmp_path / "film.avi", "film")
    assert reader.num_frames == 7 and reader.rate == pytest.approx(5.0)
    read = list(reader)
    reader.close()
    assert [frame.name for frame in read] == [f"film_{n:06d}" for n in range(1, 8)]
    for frame, true in zip(read, frames, strict=True):
        assert np.abs(frame.image.astype(int) - true).max() < 12  # JPEG


def test_video_that_is_none_or_cut_short_is_an_error(tmp_path):
    (tmp_path / "text.avi").write_bytes(b"no video")
    with pytest.raises(MediaError, match="text.avi: cannot be opened"):
        VideoReader(tmp_path / "text.avi", "text")
    for camera in (-1, 10**12):
        with pytest.raises(MediaError, match=f"camera {camera}: there is none of that number"):
            VideoReader(camera, "camera")
    noise = np.random.default_rng(0).integers(0, 255, (60, 48, 64, 3)).astype(np.uint8)
    write_video(tmp_path / "film.avi", list(noise))
    whole = (tmp_path / "film.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match="cut.avi"):
        list(VideoReader(tmp_path / "cut.avi", "cut"))


def test_written_video_can_be_read_again(tmp_path):
    frames = [np.full((48, 64, 3), (250, 20 * i, 20), np.uint8) for i in range(5)]
    writer = VideoWriter(tmp_path / "out", rate=10)
    for frame in frames:
        writer.write(frame)
    with pytest.raises(MediaError, match=r"frame of \(10, 10\)"):
        writer.write(np.zeros((10, 10, 3), np.uint8))
    writer.close()
    assert Path(writer.path).stem == "out"
    read = [frame.image for frame in VideoReader(writer.path, "out")]
    assert len(read) == 5
    for image, true in zip(read, frames, strict=True):
        assert np.abs(image.astype(int) - true).mean() < 15


def test_a_video_that_the_disk_cuts_is_removed(tmp_path):
    """OpenCV says nothing of a full disk; here the file is cut behind its back."""
    rng = np.random.default_rng(0)
    writer = VideoWriter(tmp_path / "out", rate=10)
    for _ in range(20):
        writer.write(rng.integers(0, 255, (48, 64, 3)).astype(np.uint8))
    release = cv2.VideoWriter.release

    class Cut:
        def release(self) -> None:
            release(original)
            (part,) = tmp_path.iterdir()
            os.truncate(part, part.stat().st_size // 2)

    original, writer._writer = writer._writer, Cut()
    with pytest.raises(MediaError, match="of 20 frames could be written.*is the disk full"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


def test_without_a_codec_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_CODECS", ((".xyz", "ZZZZ"),))
    with pytest.raises(MediaError, match="can write none of the codecs"):
        VideoWriter(tmp_path / "out", rate=10).write(np.zeros((8, 8, 3), np.uint8))


def test_without_a_display_the_window_says_what_to_do(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MediaError, match="no display.*--output"):
        Window("title")
