"""What scenes are drawn with: whole-number sines, a documented random stream, exact polygons."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_common.scenes.textures import CIRCLE, Draws, cosine, polygon_mask, sine, value_noise


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
