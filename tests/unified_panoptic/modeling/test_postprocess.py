"""From potentials to a panoptic map: resampling, argmax, the heuristic merger, trimming."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.structures import Boxes, Instances

from panoptic_common.modeling.resampling import resample
from unified_panoptic.modeling import postprocess
from unified_panoptic.modeling.dynamic_potential import DynamicPotential
from unified_panoptic.modeling.instance_affinity import apply_affinity, spread, summarise
from unified_panoptic.modeling.postprocess import (
    argmax_at_output,
    argmax_of_resampled,
    factor_residual,
    merge_heuristically,
    segments_from_channels,
    trim_small_stuff,
    uncovered_detections,
    void_missed_things,
)

SIZES = [
    ((64, 96), (64, 96)),
    ((97, 131), (97, 131)),  # no multiples of 4: the grid reaches beyond the image
    ((97, 131), (200, 301)),
    ((97, 131), (41, 53)),
    ((64, 96), (480, 97)),
    ((5, 7), (5, 7)),
]


def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    return math.ceil(size[0] / 4), math.ceil(size[1] / 4)


@pytest.mark.parametrize("input_size,output_size", SIZES)
def test_resampling_is_exact_on_linear_functions(input_size, output_size):
    """f(y, x) = 3 y - 2 x + 1 in input pixels comes out at the right places."""
    height, width = grid_of(input_size)
    y, x = torch.arange(height) * 4 + 2.0, torch.arange(width) * 4 + 2.0  # centres of the cells
    maps = (3 * y[:, None] - 2 * x[None, :] + 1)[None]
    result = resample(maps, input_size, output_size, 4)
    assert tuple(result.shape) == (1, *output_size)
    y_out = (torch.arange(output_size[0]) + 0.5) * input_size[0] / output_size[0]
    x_out = (torch.arange(output_size[1]) + 0.5) * input_size[1] / output_size[1]
    # Outside the outermost centres the edge cell's value goes on.
    y_out, x_out = y_out.clamp(2, float(y[-1])), x_out.clamp(2, float(x[-1]))
    expected = (3 * y_out[:, None] - 2 * x_out[None, :] + 1)[None]
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=2e-3)


def test_resampling_whole_multiples_is_torchs_interpolation():
    maps = torch.randn(3, 16, 24)
    expected = F.interpolate(maps[None], scale_factor=4, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(
        resample(maps, (64, 96), (64, 96), 4), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("input_size,output_size", SIZES)
def test_resampled_rows_are_rows_of_the_whole(input_size, output_size):
    maps = torch.randn(2, *grid_of(input_size))
    whole = resample(maps, input_size, output_size, 4)
    for rows in [(0, 1), (1, output_size[0]), (output_size[0] // 2, output_size[0] // 2 + 2)]:
        strip = resample(maps, input_size, output_size, 4, rows)
        torch.testing.assert_close(strip, whole[:, rows[0] : rows[1]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("input_size,output_size", SIZES[:4])
def test_resampled_residual_is_the_residual_of_resampled_features(input_size, output_size):
    psi, phi_0, phi_1 = (torch.randn(c, *grid_of(input_size)) for c in (5, 8, 8))
    residual = apply_affinity(psi, phi_0, phi_1)
    fine = spread(summarise(psi, phi_1), resample(phi_0, input_size, output_size, 4))
    found = resample(residual, input_size, output_size, 4)
    torch.testing.assert_close(found, fine, rtol=1e-3, atol=1e-3 * float(fine.abs().max()))


def detections(count: int, size: tuple[int, int], seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.7 - 3
    extent = 3 + torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.6
    boxes = torch.cat([corner, corner + extent], dim=1)
    classes = torch.randint(0, 2, (count,), generator=generator) * 2 + 1  # 1 or 3
    scores = torch.rand(count, generator=generator)
    side = torch.linspace(-1, 1, 14)
    blob = 1.2 - (side[:, None] ** 2 + side[None, :] ** 2)
    masks = (blob + torch.rand(count, 14, 14, generator=generator) * 0.4 - 0.2).clamp(0, 1)
    return boxes, classes, scores, masks


@pytest.mark.parametrize("rows", [1, 7, 40, 1000])
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("with_masks", [True, False])
def test_strips_change_nothing(monkeypatch, rows, with_residual, with_masks):
    torch.manual_seed(0)
    input_size, size = (33, 50), (97, 131)
    boxes, classes, scores, masks = detections(6, size)
    semantic = torch.rand(5, *size)
    residual = torch.randn(9, *grid_of(input_size)) * 0.3 if with_residual else None
    potential = DynamicPotential(stuff_ids=[0, 2, 4], variant="C")
    masks = masks if with_masks else None
    psi = potential(semantic, boxes, classes, scores, masks)
    if residual is not None:
        psi = psi + resample(residual, input_size, size, 4)
    monkeypatch.setattr(postprocess, "CPU_VALUES_AT_A_TIME", rows * len(psi) * size[1])
    found = argmax_at_output(
        potential, semantic, boxes, classes, scores, masks, residual, input_size
    )
    assert tuple(found.shape) == size
    best = psi.gather(0, found[None])[0]
    # Equal values may be rounded differently, so compare what the choice is worth.
    torch.testing.assert_close(best, psi.amax(dim=0), rtol=0, atol=1e-5)
    assert (found == psi.argmax(dim=0)).float().mean() > 0.999
    assert len(found.unique()) > 5


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_strips_change_nothing_at_stride_4(monkeypatch, rows):
    torch.manual_seed(0)
    input_size, size = (33, 50), (97, 131)
    potential = torch.rand(9, *grid_of(input_size))
    monkeypatch.setattr(postprocess, "CPU_VALUES_AT_A_TIME", rows * len(potential) * size[1])
    found = argmax_of_resampled(potential, input_size, size)
    whole = resample(potential, input_size, size, 4)
    assert tuple(found.shape) == size
    best = whole.gather(0, found[None])[0]
    torch.testing.assert_close(best, whole.amax(dim=0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 5, 1000])
@pytest.mark.parametrize("with_masks", [True, False])
def test_the_factored_residual_is_the_residual(monkeypatch, rows, with_masks):
    """Without Psi as a whole, and the argmax at the size of the result with it."""
    torch.manual_seed(1)
    input_size, size = (60, 92), (97, 131)
    grid = grid_of(input_size)
    boxes, classes, scores, masks = detections(7, size)
    masks = masks if with_masks else None
    coarse = torch.rand(5, *grid)
    phi_0, phi_1 = torch.randn(2, 4, *grid) * 0.2
    potential = DynamicPotential(stuff_ids=[0, 2, 4], variant="C")
    in_cells = boxes * torch.tensor([grid[1] / size[1], grid[0] / size[0]] * 2)
    psi = potential(coarse, in_cells, classes, scores, masks)
    monkeypatch.setattr(postprocess, "CPU_VALUES_AT_A_TIME", rows * len(psi) * grid[1])
    arguments = (in_cells, classes, scores, masks, (phi_0, phi_1))
    factored = factor_residual(potential, coarse, *arguments)
    whole = apply_affinity(psi, phi_0, phi_1)
    torch.testing.assert_close(spread(*factored), whole, rtol=1e-4, atol=1e-5)

    semantic = torch.rand(5, *size)
    common = (potential, semantic, boxes, classes, scores, masks)
    found = argmax_at_output(*common, factored, input_size)
    expected = argmax_at_output(*common, whole, input_size)
    assert (found == expected).float().mean() > 0.999 and len(found.unique()) > 4


def test_equal_values_go_to_the_first_channel():
    semantic = torch.full((5, 6, 8), 0.2)
    boxes = torch.tensor([[0.0, 0, 4, 6], [2, 0, 6, 6]])
    # Variant A without masks: Psi = V = 0.2 in both boxes and in all stuff.
    found = argmax_at_output(
        DynamicPotential(stuff_ids=[0, 2, 4], variant="A"),
        semantic,
        boxes,
        torch.tensor([1, 3]),
        torch.ones(2),
        None,
        None,
        (6, 8),
    )
    assert found[0].tolist() == [0, 0, 0, 0, 1, 1, 2, 2]


def test_potential_is_painted_in_single_precision_under_autocast():
    size = (40, 56)
    boxes, classes, _, masks = detections(6, size)
    # With s = 1 and an almost constant V, variant B is decided by the values of the masks.
    arguments = (
        DynamicPotential(stuff_ids=[0, 2, 4], variant="B"),
        torch.full((5, *size), 0.5) * torch.tensor([0.9, 1, 0.9, 1, 0.9])[:, None, None],
        boxes,
        classes,
        torch.ones(6),
        masks,
        None,
        size,
    )
    expected = argmax_at_output(*arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.mm(torch.eye(2), torch.eye(2)).dtype == torch.bfloat16  # autocast is on
        found = argmax_at_output(*arguments)
    assert len(expected.unique()) > 4
    assert torch.equal(found, expected)


def test_segments_from_channels_by_hand():
    # Two detections (channels 0, 1), stuff 0, 2, 4 (channels 2, 3, 4). 0 and 3 own nothing.
    channels = torch.tensor([[1, 1, 4], [2, 2, 4]])
    id_map, infos = segments_from_channels(
        channels, torch.tensor([1, 3]), torch.tensor([0.5, 0.75]), [0, 2, 4]
    )
    assert id_map.dtype == torch.int32
    assert id_map.tolist() == [[1, 1, 3], [2, 2, 3]]
    assert infos == [
        {"id": 1, "area": 2, "isthing": True, "category_id": 3, "score": 0.75},
        {"id": 2, "area": 2, "isthing": False, "category_id": 0},
        {"id": 3, "area": 2, "isthing": False, "category_id": 4},
    ]


def test_pixels_without_a_channel_are_void():
    id_map, infos = segments_from_channels(
        torch.tensor([[-1, 1, -1], [-1, 2, 2]]), torch.tensor([1]), torch.tensor([0.5]), [0, 2]
    )
    assert id_map.tolist() == [[0, 1, 0], [0, 2, 2]]
    assert [segment["area"] for segment in infos] == [1, 2]
    nothing, infos = segments_from_channels(
        torch.full((2, 2), -1), torch.tensor([1]), torch.tensor([0.5]), [0, 2]
    )
    assert not nothing.any() and infos == []


def test_missed_things_are_taken_from_stuff_alone():
    # Class 1 is a thing. Channel 0 is a detection of it, channels 1 and 2 are stuff 0 and 2.
    channels = torch.tensor([[0, 1, 1, 2]])
    best = torch.tensor([[1, 1, 0, 2]])
    semantic = torch.nn.functional.one_hot(best, 3).permute(2, 0, 1).float()
    found = void_missed_things(channels, semantic, 1, (False, True, False))
    assert found.tolist() == [[0, -1, 1, 2]]
    assert channels.tolist() == [[0, 1, 1, 2]]  # left as it was


def test_segments_without_detections():
    none = torch.zeros(0, dtype=torch.int64)
    id_map, infos = segments_from_channels(
        torch.zeros(2, 3, dtype=torch.int64), none, none.float(), [2]
    )
    assert id_map.unique().tolist() == [1]
    assert infos == [{"id": 1, "area": 6, "isthing": False, "category_id": 2}]


def example_map():
    id_map = torch.tensor([[1, 1, 2, 2], [3, 3, 3, 0]], dtype=torch.int32)
    infos = [
        {"id": 1, "area": 2, "isthing": True, "category_id": 1, "score": 0.5},
        {"id": 2, "area": 2, "isthing": False, "category_id": 0},
        {"id": 3, "area": 3, "isthing": False, "category_id": 2},
    ]
    return id_map, infos


def test_trimming_voids_stuff_below_the_limit_and_spares_things():
    id_map, infos = example_map()
    trimmed, kept = trim_small_stuff((id_map, infos), 3)
    assert trimmed.tolist() == [[1, 1, 0, 0], [3, 3, 3, 0]]
    assert trimmed.dtype == id_map.dtype
    assert [s["id"] for s in kept] == [1, 3]
    # The input is as it was, and the limit itself is large enough.
    assert id_map.tolist() == example_map()[0].tolist()
    assert len(infos) == 3
    assert [s["id"] for s in trim_small_stuff((id_map, infos), 4)[1]] == [1]
    assert trim_small_stuff((id_map, infos), 4)[0].tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_trimming_below_every_area_changes_nothing(limit):
    id_map, infos = trim_small_stuff(example_map(), limit)
    assert id_map.tolist() == example_map()[0].tolist()
    assert infos == example_map()[1]


def test_trimming_a_map_of_void():
    id_map, infos = trim_small_stuff((torch.zeros(2, 2, dtype=torch.int32), []), 10)
    assert id_map.abs().sum() == 0
    assert infos == []


def semantic_map(size: tuple[int, int], seed: int) -> torch.Tensor:
    """Smooth random scores of 5 classes, so that segments are more than single pixels."""
    coarse = torch.randn(1, 5, 5, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)[0]


IS_THING = (False, True, False, True, False)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("area_limit", [1, 150])
def test_merger_equals_detectron2s(seed, overlap, area_limit):
    size = (61, 83)
    boxes, classes, scores, masks = detections(12, size, seed)
    semantic = semantic_map(size, seed)
    ours = merge_heuristically(
        semantic, boxes, classes, scores, masks, IS_THING, overlap, score_threshold=0.3
    )
    ids, infos = trim_small_stuff(ours, area_limit)

    # Detectron2 counts the share that is taken, not the share that is free. It calls every thing 0
    # in its semantic map, so that stuff class c is c + 1 here.
    instances = Instances(size)
    instances.scores, instances.pred_classes = scores, classes
    instances.pred_masks = paste_masks_in_image(masks, Boxes(boxes), size, threshold=0.5)
    labels = semantic.argmax(dim=0)
    labels = torch.where(torch.tensor(IS_THING)[labels], 0, labels + 1)
    their_ids, their_infos = combine_semantic_and_instance_outputs(
        instances, labels, 1 - overlap, area_limit, 0.3
    )
    assert len(infos) == len(their_infos)
    for segment, other in zip(infos, their_infos, strict=True):
        assert segment["isthing"] == other["isthing"]
        assert segment["category_id"] == other["category_id"] - (not other["isthing"])
        mask = ids == segment["id"]
        assert torch.equal(mask, their_ids == other["id"])
        assert segment["area"] == int(mask.sum())
        if segment["isthing"]:
            assert segment["score"] == pytest.approx(other["score"])
    assert torch.equal(ids == 0, their_ids == 0)
    assert sum(s["isthing"] for s in infos) >= 3


def test_merger_leaves_things_without_an_instance_void():
    semantic = torch.zeros(5, 2, 4)
    semantic[0, :, :2] = 1
    semantic[3, :, 2:] = 1
    none = torch.zeros(0)
    ids, infos = merge_heuristically(
        semantic, none.view(0, 4), none.long(), none, none.view(0, 14, 14), IS_THING
    )
    assert ids.tolist() == [[1, 1, 0, 0]] * 2
    assert infos == [{"id": 1, "isthing": False, "category_id": 0, "area": 4}]


def test_merger_order_share_and_score_by_hand():
    semantic = torch.zeros(5, 4, 8)
    semantic[2] = 1
    boxes = torch.tensor([[0.0, 0, 4, 4], [2, 0, 6, 4], [1, 0, 5, 4], [6, 0, 8, 4]])
    scores = torch.tensor([0.8, 0.9, 0.7, 0.4])
    ids, infos = merge_heuristically(
        semantic, boxes, torch.tensor([1, 1, 3, 1]), scores, torch.ones(4, 4, 4), IS_THING
    )
    # The second box comes first; half of the first is still free, just enough. A quarter of the
    # third is not free at all; the fourth scores too little.
    assert ids[0].tolist() == [2, 2, 1, 1, 1, 1, 3, 3]
    assert [s["category_id"] for s in infos] == [1, 1, 2]
    assert [s["area"] for s in infos] == [16, 8, 8]


# ---- duplicates ---------------------------------------------------------------------------------


def test_covered_detections_are_dropped_whatever_their_class():
    # Full masks on a 10 x 10 grid: B (6 x 6 at the origin) lies inside A (8 x 8). C (4 x 4 at
    # (6, 6)) shares 2 x 2 = 4 of its 16 cells with A; D touches nobody.
    boxes = torch.tensor([[0, 0, 6, 6], [0, 0, 8, 8], [6, 6, 10, 10], [0, 9, 4, 10.0]])
    scores = torch.tensor([0.8, 0.9, 0.7, 0.6])
    masks = torch.ones(4, 28, 28)

    def keep(share: float) -> list[int]:
        return uncovered_detections(boxes, scores, masks, (10, 10), share).tolist()

    assert keep(0.5) == [1, 2, 3]
    assert keep(0.25) == [1, 2, 3]  # 4 of 16 is not more than a quarter
    assert keep(0.2) == [1, 3]
    assert keep(1.0) == [0, 1, 2, 3]


def test_the_better_score_stays_and_an_empty_mask_is_covered_by_nothing():
    boxes = torch.tensor([[0, 0, 6, 6], [0, 0, 6, 6], [0, 0, 6, 6.0]])
    masks = torch.stack([torch.ones(28, 28), torch.ones(28, 28), torch.zeros(28, 28)])
    scores = torch.tensor([0.3, 0.9, 0.5])
    assert uncovered_detections(boxes, scores, masks, (8, 8), 0.5).tolist() == [1, 2]
    none = uncovered_detections(boxes[:0], scores[:0], masks[:0], (8, 8), 0.5)
    assert none.tolist() == [] and none.dtype == torch.int64
