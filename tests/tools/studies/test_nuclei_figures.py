"""The measures of nuclei by hand, the rule for microscopy, and the program on hand-made maps."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panoptic_common.coco.overlaps import count_overlaps
from panoptic_common.coco.quality import match_segments
from panoptic_common.coco.segment_ids import update_segments, write_id_map
from panoptic_tools.studies import nuclei_figures
from panoptic_tools.studies.library.nuclei_measures import (
    ImageNuclei,
    Nucleus,
    average_precisions,
    figures_of,
    list_nuclei,
    microscopy_of,
    table_rows,
)


def test_average_precisions_by_hand() -> None:
    # Two pairs of IoU 0.9 and 0.62, one missed, one invented.
    nuclei = [
        Nucleus(0.9, True, 100),
        Nucleus(0.62, True, 100),
        Nucleus(0.0, True, 100),
        Nucleus(0.0, False, 100),
    ]
    found = average_precisions(nuclei)
    # At 0.5, 0.55, 0.6: TP 2, FN 1, FP 1. From 0.65 to 0.85: TP 1, FN 2, FP 2. From 0.9 on: 0, for
    # an IoU of 0.9 is not above 0.9.
    expected = [2 / 4] * 3 + [1 / 5] * 5 + [0.0] * 2
    np.testing.assert_allclose(found, expected)
    assert np.isnan(average_precisions([])).all()


def test_figures_of_images_together_and_one_by_one() -> None:
    first = ImageNuclei("a", "stained", [Nucleus(0.8, True, 50), Nucleus(0.0, True, 200)])
    second = ImageNuclei("b", "fluorescence", [Nucleus(0.6, True, 700)])
    empty = ImageNuclei("c", "fluorescence")
    row = figures_of([first, second, empty])
    # PQ: (0.8 + 0.6) / (2 + 1 / 2); the empty image counts nowhere.
    assert row["PQ"] == pytest.approx(1.4 / 2.5)
    assert row["SQ"] == pytest.approx(0.7) and row["RQ"] == pytest.approx(2 / 2.5)
    assert row["AP50"] == pytest.approx((1 / 2 + 1) / 2)
    assert row["pooled AP50"] == pytest.approx(2 / 3)
    assert (row["images"], row["nuclei"]) == (2, 3)
    rows = table_rows([first, second, empty])
    assert rows["stained"]["PQ"] == pytest.approx(0.8 / 1.5)
    assert rows["fluorescence"]["PQ"] == pytest.approx(0.6)
    assert rows["side below 12"]["PQ"] == pytest.approx(0.8)
    assert rows["side 12 to 24"]["PQ"] == 0 and rows["side from 24"]["PQ"] == pytest.approx(0.6)
    assert sum(rows[name]["nuclei"] for name in rows if name.startswith("side")) == 3
    assert math.isnan(figures_of([])["PQ"]) and math.isnan(empty.pq)


@pytest.mark.parametrize(
    ("ground", "kind"), [(0, "fluorescence"), (74, "fluorescence"), (75, "stained")]
)
def test_the_ground_tells_the_microscopy(ground: int, kind: str) -> None:
    image = np.full((10, 10, 3), ground, np.uint8)
    image[:4] = 255 - ground  # less than half is nuclei
    assert microscopy_of(image) == kind


def _maps() -> tuple[np.ndarray, np.ndarray]:
    """Truth with three nuclei; a prediction with one exact, one merged of two, one invented."""
    truth = np.ones((20, 40), np.int32)
    truth[2:8, 2:8], truth[2:8, 20:26], truth[2:8, 26:32] = 2, 3, 4
    prediction = np.ones_like(truth)
    prediction[2:8, 2:8], prediction[2:8, 20:32], prediction[12:16, 5:9] = 5, 6, 7
    return truth, prediction


def test_nuclei_are_listed_with_their_areas() -> None:
    truth, prediction = _maps()
    segments = [{"id": i, "category_id": int(i > 1)} for i in (1, 2, 3, 4)]
    predicted = [{"id": i, "category_id": int(i > 1)} for i in (1, 5, 6, 7)]
    overlaps = count_overlaps(truth, prediction)
    matches = match_segments(truth, segments, prediction, predicted, 2, overlaps=overlaps)
    # The merged one has an IoU of exactly 1/2 with each half, which is no match.
    assert sorted(list_nuclei(matches, 1, overlaps.areas())) == [
        (0.0, False, 16),
        (0.0, False, 72),
        (0.0, True, 36),
        (0.0, True, 36),
        (1.0, True, 36),
    ]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Truth, images and predictions of three images: perfect, as in `_maps`, and all missed."""
    truth, prediction = _maps()
    categories = [
        {"id": 1, "name": "background", "isthing": 0},
        {"id": 2, "name": "nucleus", "isthing": 1},
    ]
    images, lists = [], {"truth": [], "found": []}
    (tmp_path / "images").mkdir()
    for number, found in enumerate((truth, prediction, np.ones_like(truth)), start=1):
        pixels = np.full((*truth.shape, 3), 200 if number == 2 else 5, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 20, "width": 40})
        for name, ids in (("truth", truth), ("found", found)):
            (tmp_path / name).mkdir(exist_ok=True)
            write_id_map(tmp_path / name / f"{number}.png", ids)
            listed = [
                {"id": int(i), "category_id": 1 + int(i > 1), "iscrowd": 0} for i in np.unique(ids)
            ]
            lists[name].append(
                {
                    "image_id": number,
                    "file_name": f"{number}.png",
                    "segments_info": update_segments(ids, listed),
                }
            )
    for name, listed in lists.items():
        content = {"images": images, "annotations": listed, "categories": categories}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return [
        *("--truth", str(tmp_path / "truth.json"), "--images", str(tmp_path / "images")),
        *("--predictions", str(tmp_path / "found.json")),
    ]


def test_the_program_prints_figures_and_draws_three_sheets(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--sheets", str(tmp_path / "sheets"), "--output", str(tmp_path / "figures.json")]
    assert nuclei_figures.main([*files, *words]) == 0
    printed = capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    # TP 3 + 1, FN 2 + 3, FP 2, all IoU 1: 4 / (4 + 7 / 2).
    assert figures["figures"]["all"]["PQ"] == pytest.approx(4 / 7.5)
    assert figures["figures"]["fluorescence"]["PQ"] == pytest.approx(3 / 4.5)
    assert figures["figures"]["stained"]["PQ"] == pytest.approx(1 / 3)
    for role, name, pq in (("best", 1, "100.0"), ("median", 2, "33.3"), ("worst", 3, "0.0")):
        assert f"{role}: {name}.png, PQ {pq}" in printed
        with Image.open(tmp_path / "sheets" / f"{role}.png") as sheet:
            assert min(sheet.size) > 100


def test_the_contact_sheet_has_the_best_and_the_median_of_each_kind_and_the_worst(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    assert nuclei_figures.main([*files, "--contact-sheet", str(sheet)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(str(sheet))]
    assert [row.removeprefix(f"{sheet}: ").split(".png")[0] for row in rows] == [
        *("best, fluorescence: 1", "median, fluorescence: 3"),
        *("best, stained: 2", "median, stained: 2", "worst: 3"),
    ]
    with Image.open(sheet) as drawn:
        assert drawn.width == 4 * (320 + 6) + 6


def test_the_program_names_what_it_cannot_use(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nuclei_figures.main([*files, "--thing", "cell"]) == 2
    assert "background, nucleus" in capsys.readouterr().err
    (tmp_path / "images" / "2.png").unlink()
    assert nuclei_figures.main(files) == 2
    assert "no file for image 2" in capsys.readouterr().err
