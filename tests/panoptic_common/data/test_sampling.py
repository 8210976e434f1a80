"""Which images of a data set numbers are tuned on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from two_things import NAME, forget_two_things, two_things_options, write_two_things

from panoptic_common.data.catalog import register_panoptic
from panoptic_common.data.sampling import sample_records


@pytest.fixture(autouse=True)
def two_images(tmp_path: Path) -> Iterator[None]:
    write_two_things(tmp_path)
    register_panoptic(*two_things_options(tmp_path)[1:])
    yield
    forget_two_things()


def test_the_choice_is_that_of_the_seed() -> None:
    names = [[r["file_name"] for r in sample_records(NAME, 1, 10**6, seed)] for seed in range(8)]
    assert names == [[r["file_name"] for r in sample_records(NAME, 1, 10**6, s)] for s in range(8)]
    assert len({name for (name,) in names}) == 2


def test_more_images_than_there_are_is_all_of_them_in_their_order() -> None:
    names = [Path(record["file_name"]).name for record in sample_records(NAME, 50, 48 * 64)]
    assert names == ["1.png", "2.png"]


def test_too_large_images_are_left_out() -> None:
    with pytest.raises(ValueError, match=f"{NAME} has no image of at most 3071 pixels"):
        sample_records(NAME, 2, 48 * 64 - 1)
