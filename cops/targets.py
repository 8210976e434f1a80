"""Truth of one image in the forms that COPS trains on (Abbas, Swoboda, NeurIPS 2021, 3.1, 4.2).

Everything follows from the panoptic id map after augmentation, so classes, segments and edges
cannot disagree. The semantic loss is taken at full size. Edges and segments live on the grid that
the solver works on, where each cell takes the most frequent segment of its block of pixels. Results
are upsampled by nearest, so a cell is painted over its whole block. The most frequent id is the one
that is then right on the most pixels. At stride 4, scenes rebuilt from the truth on the grid have a
PQ of 89. It is 84 if cells took the block's upper left pixel (40 scenes of 192 x 384).

Shapes: H, W pixels of the augmented image; h, w cells, ceil(H / stride) and ceil(W / stride);
D distances of edges, whose cells and channels are those of `cops.grid_graph`; K classes; S segments
with at least one cell; L labels of the image, void first; R runs of equal ids in raster order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from cops.grid_graph import GridGraph, grid_graph

if TYPE_CHECKING:
    from detectron2.config import CfgNode

IGNORE_CLASS = 255
NO_SEGMENT = -1
GRID_STRIDE = 4  # of the network's output in the paper


@dataclass(eq=False)
class CopsTarget:
    """The truth of one image on the grid.

    Attributes:
        segment_map: (h, w) int32, index of each cell's segment; -1 where void or crowd.
        classes: (S,) int64, contiguous class of each segment; a stuff class is one segment.
            A segment that won no cell is not among them: the grid cannot express it.
        sem_seg: (h, w) int64 classes; 255 where void. Crowd has its class.
        pixel_weights: (h, w) float32, weights of the cells in a semantic loss; 0 where void.
        is_cut: (2 D, h, w) float32, 1 where an edge joins different segments, else 0.
        edge_weights: (2 D, h, w) float32; 0 where there is no edge or an end is void or crowd.
    """

    segment_map: torch.Tensor
    classes: torch.Tensor
    sem_seg: torch.Tensor
    pixel_weights: torch.Tensor
    is_cut: torch.Tensor
    edge_weights: torch.Tensor

    def to(self, device: torch.device | str) -> CopsTarget:
        """Move the target to `device`."""
        return CopsTarget(*(getattr(self, field.name).to(device) for field in fields(self)))

    def padded(self, size: tuple[int, int]) -> CopsTarget:
        """Enlarge the grid at the bottom and at the right.

        The new cells are void, and their edges are ignored.

        Args:
            size: (rows, columns) of the larger grid.

        Raises:
            ValueError: the grid is smaller than the target's.
        """
        height, width = self.segment_map.shape
        if size[0] < height or size[1] < width:
            raise ValueError(f"cannot pad a target of {height} x {width} cells to {size}")
        border = (0, size[1] - width, 0, size[0] - height)
        return CopsTarget(
            segment_map=F.pad(self.segment_map, border, value=NO_SEGMENT),
            classes=self.classes,
            sem_seg=F.pad(self.sem_seg, border, value=IGNORE_CLASS),
            pixel_weights=F.pad(self.pixel_weights, border),
            is_cut=F.pad(self.is_cut, border),
            edge_weights=F.pad(self.edge_weights, border),
        )


def reduce_id_map(id_map: np.ndarray, stride: int) -> np.ndarray:
    """Find the most frequent id of each block of pixels; of equally frequent ids the smallest.

    Args:
        id_map: (H, W) integers. Void is an id like any other.
        stride: side of a block in pixels; blocks at the lower and right border may be cut off.

    Returns:
        (ceil(H / stride), ceil(W / stride)) of the same dtype.

    Raises:
        ValueError: the map is empty, or not two-dimensional, or not of integers; a stride below 1.
    """
    if id_map.ndim != 2 or id_map.size == 0 or not np.issubdtype(id_map.dtype, np.integer):
        raise ValueError(
            f"expected a map (H, W) of integers, got shape {id_map.shape} of {id_map.dtype}"
        )
    if stride < 1:
        raise ValueError(f"the stride must be at least 1, got {stride}")
    height, width = id_map.shape
    reduced = np.empty((-(-height // stride), -(-width // stride)), dtype=id_map.dtype)
    # The whole blocks, and up to three strips of blocks that the border cuts off: within each, all
    # blocks have one shape.
    for rows, cell_rows, block_height in _whole_and_rest(height, stride):
        for columns, cell_columns, block_width in _whole_and_rest(width, stride):
            reduced[cell_rows, cell_columns] = _modes(
                id_map[rows, columns], block_height, block_width
            )
    return reduced


def _whole_and_rest(length: int, stride: int) -> list[tuple[slice, slice, int]]:
    """Parts of an axis with equal blocks, as (pixels, cells, pixels per block)."""
    whole, rest = divmod(length, stride)
    parts = [(slice(0, whole * stride), slice(0, whole), stride)] if whole else []
    if rest:
        parts.append((slice(whole * stride, length), slice(whole, whole + 1), rest))
    return parts


def _modes(id_map: np.ndarray, block_height: int, block_width: int) -> np.ndarray:
    """Most frequent ids of the blocks of a map whose sides are multiples of the blocks'."""
    low = _reduce_blocks(np.minimum, id_map, block_height, block_width)
    high = _reduce_blocks(np.maximum, id_map, block_height, block_width)
    # Most blocks hold one id; only the others are counted. Sorted, equal ids of a block are runs,
    # and the first run of the greatest length is the smallest of the most frequent ids.
    rows, columns = np.nonzero(low != high)
    blocks = id_map.reshape(len(low), block_height, low.shape[1], block_width)
    pixels = block_height * block_width
    mixed = np.sort(blocks[rows, :, columns, :].reshape(len(rows), pixels), axis=1)
    place = np.arange(pixels, dtype=np.int32)
    starts = np.zeros(mixed.shape, dtype=np.int32)
    starts[:, 1:] = np.where(mixed[:, 1:] != mixed[:, :-1], place[1:], 0)
    run_lengths = place - np.maximum.accumulate(starts, axis=1)
    low[rows, columns] = mixed[np.arange(len(mixed)), run_lengths.argmax(axis=1)]
    return low


def _reduce_blocks(
    operation: np.ufunc, id_map: np.ndarray, block_height: int, block_width: int
) -> np.ndarray:
    """np.minimum or np.maximum over each block; rows first, as they are contiguous."""
    for axis, size in ((0, block_height), (1, block_width)):
        slices = [id_map[i::size] if axis == 0 else id_map[:, i::size] for i in range(size)]
        id_map = slices[0].copy()
        for other in slices[1:]:
            operation(id_map, other, out=id_map)
    return id_map


class _Labels(NamedTuple):
    """What the L labels of an image stand for.

    Label 0 is void; then come, by ascending id, segments and crowds. Each attribute is (L,).

    Attributes:
        classes: int64 contiguous class; 255 for void.
        is_thing: bool; False for void.
        is_segment: bool; False for void and crowds.
    """

    classes: np.ndarray
    is_thing: np.ndarray
    is_segment: np.ndarray


def make_cops_targets(
    id_map: np.ndarray,
    segments_info: Sequence[dict],
    is_thing: Sequence[bool],
    distances: Sequence[int],
    *,
    stride: int = GRID_STRIDE,
    thing_weight: float = 4.0,
    small_weight: float = 3.0,
    small_area: float = 4096,
    touching_weight: float = 1.0,
) -> dict:
    """Make the semantic map, its weights, and the grid's truth of one image.

    A crowd keeps its class in the semantic maps but is no segment. Where its objects part is not
    known, so edges that touch it are ignored, as those that touch void. Pixels with an id of no
    segment in the list are void.

    A pixel weighs 1, of a small thing `small_weight`. An edge takes the larger weight of its ends:
    1 for stuff, `thing_weight` for things, `thing_weight * small_weight` for small things (4.2).
    One between two things takes `touching_weight` besides, which is ours: such edges are few.

    Args:
        id_map: (H, W) panoptic ids, 0 = void.
        segments_info: dicts with "id", "category_id" (contiguous) and "iscrowd".
        is_thing: K flags, one per contiguous class.
        distances: D distances of edges, in cells.
        stride: side of a cell in pixels.
        thing_weight: factor of the edges at things.
        small_weight: factor of the pixels and the edges of small things.
        small_area: things of fewer pixels in `id_map` are small.
        touching_weight: factor of the edges from one thing to another.

    Returns:
        {"sem_seg": (H, W) int64 with 255 = ignore, "pixel_weights": (H, W) float32, 0 where
        ignored, "cops_target": CopsTarget}.

    Raises:
        ValueError: a segment's class is not in the table, or an id is listed twice.
    """
    label_of_id, labels = _label_segments(segments_info, is_thing)
    # Ids change rarely along a row: some thousand runs stand for half a million pixels.
    flat = np.ascontiguousarray(id_map).reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=flat.size)
    run_labels = _look_up(label_of_id, flat[starts])

    num_labels, known = len(labels.classes), labels.classes != IGNORE_CLASS
    areas = np.bincount(run_labels, weights=lengths, minlength=num_labels)
    small = labels.is_thing & labels.is_segment & (areas < small_area)
    pixel_weights = np.where(small, small_weight, known).astype(np.float32)
    node_weights = np.where(labels.is_thing, thing_weight, 1.0) * pixel_weights * labels.is_segment

    label_map = np.repeat(run_labels.astype(np.min_scalar_type(num_labels)), lengths)
    cells = reduce_id_map(label_map.reshape(id_map.shape), stride)
    won = np.bincount(cells.reshape(-1), minlength=num_labels) > 0
    segments = np.flatnonzero(labels.is_segment & won)
    index = np.full(num_labels, NO_SEGMENT, dtype=np.int32)
    index[segments] = np.arange(len(segments), dtype=np.int32)
    graph = grid_graph(*cells.shape, distances)
    cut_weights = np.where(labels.is_thing, touching_weight, 1.0)
    is_cut, edge_weights = _edge_targets(graph, cells, node_weights, cut_weights)
    target = CopsTarget(
        segment_map=torch.from_numpy(index[cells]),
        classes=torch.from_numpy(labels.classes[segments]),
        sem_seg=torch.from_numpy(labels.classes[cells]),
        pixel_weights=torch.from_numpy(pixel_weights[cells]),
        is_cut=torch.from_numpy(is_cut),
        edge_weights=torch.from_numpy(edge_weights),
    )

    def spread(values: np.ndarray) -> torch.Tensor:
        """(L,) -> (H, W)."""
        return torch.from_numpy(np.repeat(values[run_labels], lengths).reshape(id_map.shape))

    return {
        "sem_seg": spread(labels.classes),
        "pixel_weights": spread(pixel_weights),
        "cops_target": target,
    }


def _label_segments(
    segments_info: Sequence[dict], is_thing: Sequence[bool]
) -> tuple[tuple[np.ndarray, np.ndarray], _Labels]:
    """Give every segment of an image a label.

    Args:
        segments_info: see `make_cops_targets`.
        is_thing: K flags.

    Returns:
        Ascending ids with the label of each, and what the labels stand for. Stuff segments of one
        class share a label, since a stuff class is one segment.
    """
    classes, things, whole = [IGNORE_CLASS], [False], [False]
    ids, label_of = [], []
    stuff_label: dict[int, int] = {}
    for segment in sorted(segments_info, key=lambda s: s["id"]):
        number = segment["category_id"]
        if not 0 <= number < len(is_thing):
            raise ValueError(
                f"segment {segment['id']} has class {number}, "
                f"but the table holds {len(is_thing)} classes"
            )
        if ids and ids[-1] == segment["id"]:
            raise ValueError(f"segment {segment['id']} is listed twice")
        ids.append(segment["id"])
        crowd = bool(segment.get("iscrowd", 0))
        if not (crowd or is_thing[number]) and number in stuff_label:
            label_of.append(stuff_label[number])
            continue
        label_of.append(len(classes))
        if not (crowd or is_thing[number]):
            stuff_label[number] = len(classes)
        classes.append(number)
        things.append(bool(is_thing[number]))
        whole.append(not crowd)
    table = (np.array(ids, dtype=np.int64), np.array(label_of, dtype=np.int64))
    return table, _Labels(
        np.array(classes, dtype=np.int64), np.array(things), np.array(whole, dtype=bool)
    )


def _look_up(label_of_id: tuple[np.ndarray, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """Look up (R,) labels of ids; 0, void, for ids that are not in the table."""
    known, labels = label_of_id
    if len(known) == 0:
        return np.zeros(len(ids), dtype=np.int64)
    place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.where(known[place] == ids, labels[place], 0)


def _edge_targets(
    graph: GridGraph, cells: np.ndarray, node_weights: np.ndarray, cut_weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Make cut targets and weights of all edges.

    Args:
        graph: of the grid.
        cells: (h, w) labels.
        node_weights: (L,); 0 for void and crowds.
        cut_weights: (L,); a cut edge takes the smaller of its ends' besides.

    Returns:
        Two (2 D, h, w) float32; both are 0 where the edge is ignored or missing.
    """
    is_cut = np.zeros((graph.num_channels, graph.height, graph.width), dtype=np.float32)
    edge_weights = np.zeros_like(is_cut)
    weights, of_cut = (each.astype(np.float32)[cells] for each in (node_weights, cut_weights))
    counts = weights > 0
    for channel in graph.channels:
        first, second = channel.first, channel.second
        both = counts[first] & counts[second]
        larger = np.maximum(weights[first], weights[second])
        cut = (cells[first] != cells[second]) & both
        larger[cut] *= np.minimum(of_cut[first], of_cut[second])[cut]
        edge_weights[channel.channel][channel.cells] = larger * both
        is_cut[channel.channel][channel.cells] = cut
    return is_cut, edge_weights


def build_target_function(cfg: CfgNode) -> Callable[[np.ndarray, Sequence[dict]], dict]:
    """Build the target function that the dataset mapper calls; it can be pickled.

    Args:
        cfg: a config completed from the class table (MODEL.PANOPTIC.IS_THING filled).

    Raises:
        ValueError: the class table is missing.
    """
    if not cfg.MODEL.PANOPTIC.IS_THING:
        raise ValueError(
            "MODEL.PANOPTIC.IS_THING is empty: load the config by "
            "panoptic_common.config.load_config"
        )
    node = cfg.MODEL.COPS
    return partial(
        make_cops_targets,
        is_thing=tuple(bool(flag) for flag in cfg.MODEL.PANOPTIC.IS_THING),
        distances=tuple(node.DISTANCES),
        stride=node.STRIDE,
        thing_weight=node.PRETRAIN.THING_WEIGHT,
        small_weight=node.PRETRAIN.SMALL_WEIGHT,
        small_area=node.PRETRAIN.SMALL_AREA,
        touching_weight=node.PRETRAIN.TOUCHING_WEIGHT,
    )
