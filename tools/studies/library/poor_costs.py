"""Costs made from the truth of a synthetic scene and then spoiled, as a poor network would.

Shapes: K classes; D distances; H, W pixels; h, w cells of the grid at stride 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cops.grid_graph import grid_graph
from cops.targets import CopsTarget, make_cops_targets
from panoptic_common.scenes.storage import CLASSES, SceneConfig, make_scene

IS_THING = tuple(bool(entry["isthing"]) for entry in CLASSES)


def make_truth(seed: int, size: Sequence[int], distances: Sequence[int]) -> CopsTarget:
    """Make the truth of one scene on the grid.

    Args:
        seed: of the scene.
        size: (H, W), pixels.
        distances: of the edges, in cells.
    """
    scene = make_scene(seed, SceneConfig(height=size[0], width=size[1]))
    contiguous = {entry["id"]: index for index, entry in enumerate(CLASSES)}
    segments = [s | {"category_id": contiguous[s["category_id"]]} for s in scene.segments_info]
    return make_cops_targets(scene.id_map, segments, IS_THING, distances)["cops_target"]


def smooth_noise(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw noise (C, h, w) of unit variance whose patches are about three cells wide."""
    noise = torch.randn(1, *shape, generator=generator)
    noise = torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1)[0]
    return noise / noise.std()


def poor_costs(
    truth: CopsTarget, distances: Sequence[int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw class costs (K, h, w) and edge costs (2 D, h, w) of an image that is seen badly.

    Args:
        truth: which is spoiled.
        distances: of the edges, in cells.
        generator: randomness.
    """
    segments = truth.segment_map.clone()
    is_thing = [IS_THING[c] for c in truth.classes.tolist()]
    things = [s for s, thing in enumerate(is_thing) if thing]
    stuff = [s for s, thing in enumerate(is_thing) if not thing]
    for segment, fate in zip(things, torch.rand(len(things), generator=generator), strict=True):
        where = truth.segment_map == segment
        same = [s for s in things if truth.classes[s] == truth.classes[segment]]
        if fate < 0.2 and stuff:  # missing: it looks like some stuff
            segments[where] = stuff[0]
        elif fate < 0.4:  # merged with the next thing of its class
            segments[where] = same[(same.index(segment) + 1) % len(same)]
    shift = torch.randint(-1, 2, (2,), generator=generator).tolist()
    segments = segments.roll(shift, (0, 1))

    seen = torch.cat([truth.classes, torch.zeros(1, dtype=torch.int64)])[segments.long()]
    likes = torch.nn.functional.one_hot(seen, len(IS_THING)).permute(2, 0, 1) * (segments >= 0)
    class_costs = -2.0 * likes + 0.8 * smooth_noise(likes.shape, generator)
    graph = grid_graph(*segments.shape, distances)
    ends = segments.flatten()[torch.from_numpy(graph.edges).long()]
    cut = graph.maps_from_edges((ends[:, 0] != ends[:, 1]).float().numpy())
    edge_costs = 1.0 - 2.0 * torch.from_numpy(cut) + 0.8 * smooth_noise(cut.shape, generator)
    return class_costs, edge_costs
