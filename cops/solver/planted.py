"""Test problems that look like panoptic segmentation, as hard as asked for, from a seed.

A layout of stuff areas and overlapping things is drawn on a grid. Its costs favour it: each node
earns for its true class, edges inside a segment want to stay, edges between segments want to be
cut. Then noise is added that is smooth over the grid, as a network's mistakes are. At `noise` 1
the layout is recovered, at 3 nearly, and at 6 most nodes prefer a wrong class by themselves.

Shapes: h, w cells of the grid; V = h w nodes in raster order; K classes; E edges.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cops.solver.problem import Problem

# What makes solvers err: many equal similarities ("rounded", "signs"), similarities of exactly 0
# ("zeroed", which is cost dropout), and noise without any smoothness ("white").
VARIANTS = ("smooth", "rounded", "signs", "zeroed", "white")

CLASS_SIGNAL = 6.0
EDGE_SIGNAL = 3.0
NOISE_WIDTH = 2.0  # standard deviation of the smoothing, in cells


def grid_edges(height: int, width: int, distances: tuple[int, ...]) -> npt.NDArray[np.int32]:
    """List pairs (E, 2) of cells of a grid that are a distance apart in a row or in a column.

    By distance, then horizontal before vertical, then raster order; a distance that does not fit
    has no edge.
    """
    nodes = np.arange(height * width, dtype=np.int32).reshape(height, width)
    pairs = []
    for distance in distances:
        for first, second in (
            (nodes[:, :-distance], nodes[:, distance:]),
            (nodes[:-distance], nodes[distance:]),
        ):
            pairs.append(np.stack([first.ravel(), second.ravel()], axis=1))
    return np.ascontiguousarray(np.concatenate(pairs))


def planted_problem(
    seed: int,
    height: int,
    width: int,
    num_classes: int = 19,
    distances: tuple[int, ...] = (1, 4, 16, 32, 64, 128),
    noise: float = 1.0,
    variant: str = "smooth",
    num_things: int = 40,
) -> Problem:
    """Make a problem with a planted layout; the upper half of the classes is partitionable.

    Args:
        seed: the same seed and arguments give the same problem.
        height: h, cells.
        width: w, cells.
        num_classes: K >= 2.
        distances: of the edges, in cells.
        noise: standard deviation of the noise on class costs; on edge costs it is half of that.
        variant: one of VARIANTS.
        num_things: how many ellipses are drawn, the later over the earlier.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, not {variant!r}")
    generator = np.random.default_rng(seed)
    classes, segments = _layout(generator, height, width, num_classes, num_things)
    smooth = 0.0 if variant == "white" else NOISE_WIDTH

    node_costs = np.empty((height * width, num_classes), dtype=np.float32)
    for k in range(num_classes):
        field = noise * _noise_field(generator, height, width, smooth)
        node_costs[:, k] = (field - CLASS_SIGNAL * (classes == k)).ravel()

    edges = grid_edges(height, width, distances)
    edge_costs = []
    flat = segments.ravel()
    begin = 0
    for distance in distances:
        for shape in ((height, width - distance), (height - distance, width)):
            if min(shape) <= 0:
                continue
            ends = edges[begin : begin + shape[0] * shape[1]]
            begin += len(ends)
            together = np.where(flat[ends[:, 0]] == flat[ends[:, 1]], EDGE_SIGNAL, -EDGE_SIGNAL)
            field = 0.5 * noise * _noise_field(generator, *shape, smooth)
            edge_costs.append((together + field.ravel()).astype(np.float32))
    costs = np.concatenate(edge_costs) if edge_costs else np.zeros(0, dtype=np.float32)

    if variant == "rounded":
        node_costs, costs = np.round(node_costs), np.round(costs)
    elif variant == "signs":
        node_costs, costs = np.sign(node_costs), np.sign(costs)
    elif variant == "zeroed":
        node_costs[generator.random(height * width) < 0.1] = 0.0
        costs[generator.random(len(costs)) < 0.1] = 0.0
    partitionable = np.arange(num_classes) >= num_classes // 2
    return Problem(node_costs, edges, costs, partitionable)


def _layout(
    generator: np.random.Generator, height: int, width: int, num_classes: int, num_things: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Draw (h, w) classes and (h, w) segments; stuff segments are numbered as their class."""
    num_stuff = num_classes // 2
    rows, columns = np.mgrid[:height, :width]
    # Stuff: each cell belongs to the nearest of some centres.
    centres = generator.random((2 * num_stuff, 2)) * (height, width)
    nearest = np.full((height, width), np.inf)
    classes = np.zeros((height, width), dtype=np.int32)
    for number, (row, column) in enumerate(centres):
        distance = (rows - row) ** 2 + (columns - column) ** 2
        classes = np.where(distance < nearest, number % num_stuff, classes)
        nearest = np.minimum(nearest, distance)
    segments = classes.copy()
    for number in range(num_things):
        row, column = generator.random(2) * (height, width)
        radii = generator.uniform(0.02, 0.15, 2) * height + 1.0
        inside = ((rows - row) / radii[0]) ** 2 + ((columns - column) / radii[1]) ** 2 < 1.0
        classes[inside] = generator.integers(num_stuff, num_classes)
        segments[inside] = num_classes + number
    return classes, segments


def _noise_field(
    generator: np.random.Generator, height: int, width: int, smooth: float
) -> npt.NDArray[Any]:
    """Draw (height, width) noise of unit variance, smoothed by a Gaussian of width `smooth`."""
    field = generator.standard_normal((height, width), dtype=np.float32)
    if smooth == 0.0:
        return field
    # The Gaussian is applied in the frequency domain, which wraps around: no border to treat.
    across = np.exp(-2.0 * (np.pi * smooth * np.fft.rfftfreq(width)) ** 2)
    along = np.exp(-2.0 * (np.pi * smooth * np.fft.fftfreq(height)) ** 2)
    spectrum = np.fft.rfft2(field) * (along[:, None] * across[None, :])
    field = np.fft.irfft2(spectrum, s=(height, width)).astype(np.float32)
    deviation = float(field.std())
    return field / deviation if deviation > 0.0 else field
