"""COPS targets: hand-worked maps, a slow twin, odd and degenerate images."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from cops_factory import mode_by_loop
from detectron2.config import get_cfg

from cops.config import add_cops_config
from cops.grid_graph import grid_graph
from cops.targets import CopsTarget, build_target_function, make_cops_targets

IS_THING = (False, True, False, True)


def segment(segment_id: int, class_id: int, iscrowd: int = 0) -> dict:
    return {"id": segment_id, "category_id": class_id, "iscrowd": iscrowd}


# ------------------------------------------------------------------------------ slow twins


def targets_by_loop(
    id_map, infos, is_thing, distances, stride, thing, small, small_area, touching=1
):
    """`make_cops_targets`, one pixel, cell and edge at a time; one id per stuff class."""
    info_of = {info["id"]: info for info in infos}
    known = np.where(np.isin(id_map, list(info_of)), id_map, 0)

    def is_small(info):
        area = (id_map == info["id"]).sum()
        return is_thing[info["category_id"]] and not info["iscrowd"] and area < small_area

    def class_and_weight(ids):
        classes = np.full(ids.shape, 255)
        weights = np.zeros(ids.shape)
        for place in np.ndindex(ids.shape):
            if ids[place]:
                info = info_of[ids[place]]
                classes[place] = info["category_id"]
                weights[place] = small if is_small(info) else 1
        return classes, weights

    cells = mode_by_loop(known, stride)
    height, width = cells.shape
    alive = [i["id"] for i in sorted(infos, key=lambda i: i["id"]) if not i["iscrowd"]]
    alive = [i for i in alive if (cells == i).any()]
    numbers = {i: n for n, i in enumerate(alive)}
    segment_map = np.array([[numbers.get(int(i), -1) for i in row] for row in cells])
    is_cut = np.zeros((2 * len(distances), height, width))
    edge_weights = np.zeros_like(is_cut)
    for channel in range(2 * len(distances)):
        d = distances[channel // 2]
        back = 0 if d == 1 else -(-d // 2)
        for i, j in np.ndindex(height, width):
            step = np.array([0, 1] if channel % 2 == 0 else [1, 0])
            first, second = np.array([i, j]) - back * step, np.array([i, j]) + (d - back) * step
            if min(first) < 0 or second[0] >= height or second[1] >= width:
                continue
            ends = [int(cells[tuple(end)]) for end in (first, second)]
            if any(end not in numbers for end in ends):
                continue
            of_ends = []
            for end in ends:
                weight = thing if is_thing[info_of[end]["category_id"]] else 1
                of_ends.append(weight * (small if is_small(info_of[end]) else 1))
            is_cut[channel, i, j] = ends[0] != ends[1]
            things = all(is_thing[info_of[end]["category_id"]] for end in ends)
            touch = touching if things and ends[0] != ends[1] else 1
            edge_weights[channel, i, j] = max(of_ends) * touch
    sem_seg, pixel_weights = class_and_weight(known)
    cell_classes, cell_weights = class_and_weight(cells)
    return {
        "sem_seg": sem_seg,
        "pixel_weights": pixel_weights,
        "segment_map": segment_map,
        "classes": np.array([info_of[i]["category_id"] for i in alive]),
        "grid_sem_seg": cell_classes,
        "grid_weights": cell_weights,
        "is_cut": is_cut,
        "edge_weights": edge_weights,
    }


def random_case(seed: int, height: int, width: int):
    """Rectangles of huge unsorted ids, a crowd, void, an id in no list, and scattered pixels."""
    rng = np.random.default_rng(seed)
    ids = rng.choice(np.arange(1, 256**3), size=8, replace=False)
    # Classes 0 and 2, stuff, once each; then things of classes 1 and 3, some of them crowds.
    classes = [0, 2, *rng.choice([1, 3], size=5)]
    infos = [
        segment(int(i), int(c), int(c % 2 and rng.random() < 0.3))
        for i, c in zip(ids[:7], classes, strict=True)
    ]
    id_map = np.zeros((height, width), dtype=np.int32)
    for value in rng.choice(np.append(ids, 0), size=14):
        top, left = rng.integers(0, height), rng.integers(0, width)
        id_map[top : top + rng.integers(1, 12), left : left + rng.integers(1, 12)] = value
    noise = rng.random(id_map.shape) < 0.1
    id_map[noise] = rng.choice(ids, size=noise.sum())
    return id_map, infos


def assert_targets(made: dict, expected: dict) -> None:
    target = made["cops_target"]
    pairs = {
        "sem_seg": made["sem_seg"],
        "pixel_weights": made["pixel_weights"],
        "segment_map": target.segment_map,
        "classes": target.classes,
        "grid_sem_seg": target.sem_seg,
        "grid_weights": target.pixel_weights,
        "is_cut": target.is_cut,
        "edge_weights": target.edge_weights,
    }
    for name, tensor in pairs.items():
        np.testing.assert_array_equal(tensor.numpy(), expected[name], err_msg=name)


# -------------------------------------------------------------------------------- all targets


def test_hand_worked_image():
    # Cells of 2 x 2 pixels, 2 x 3 of them. Stuff 0 has id 4, a thing of class 1 id 9, a crowd of
    # class 3 id 6; 0 is void. The last column of cells is cut off to one pixel.
    id_map = np.array(
        [
            [4, 4, 9, 9, 0],
            [4, 4, 9, 4, 0],
            [4, 9, 9, 6, 6],
            [4, 4, 6, 6, 6],
        ]
    )
    infos = [segment(9, 1), segment(4, 0), segment(6, 3, iscrowd=1)]
    made = make_cops_targets(
        id_map, infos, IS_THING, (1, 2), stride=2, thing_weight=4, small_weight=3, small_area=6
    )
    assert made["sem_seg"].tolist() == [
        [0, 0, 1, 1, 255],
        [0, 0, 1, 0, 255],
        [0, 1, 1, 3, 3],
        [0, 0, 3, 3, 3],
    ]
    # The thing has 5 < 6 pixels, so it is small; the crowd, of 5 pixels too, is not a small thing.
    assert made["pixel_weights"].tolist() == [
        [1, 1, 3, 3, 0],
        [1, 1, 3, 1, 0],
        [1, 3, 3, 1, 1],
        [1, 1, 1, 1, 1],
    ]
    target = made["cops_target"]
    # Cells: 4 9 0    ascending ids number the segments: 4 is 0, 9 is 1.
    #        4 6 6
    assert target.segment_map.tolist() == [[0, 1, -1], [0, -1, -1]]
    assert target.classes.tolist() == [0, 1]
    assert target.sem_seg.tolist() == [[0, 1, 255], [0, 3, 3]]
    assert target.pixel_weights.tolist() == [[1, 3, 0], [1, 1, 1]]
    # d = 1, horizontal: only stuff - small thing counts, cut, with weight 4 * 3. Vertical: stuff
    # with itself counts 1, not cut. d = 2, horizontal: stuff to void, stuff to crowd; no vertical.
    assert target.is_cut.tolist() == [
        [[1, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0]],
    ]
    assert target.edge_weights.tolist() == [
        [[12, 0, 0], [0, 0, 0]],
        [[1, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0]],
    ]


@pytest.mark.parametrize("size", [(16, 24), (13, 27), (5, 40), (3, 3), (1, 1)])
@pytest.mark.parametrize("seed", range(5))
def test_equals_one_pixel_cell_and_edge_at_a_time(seed, size):
    id_map, infos = random_case(seed, *size)
    distances, small_area = (1, 2, 3, 16), 40
    made = make_cops_targets(
        id_map, infos, IS_THING, distances, stride=2, small_area=small_area, small_weight=5
    )
    expected = targets_by_loop(id_map, infos, IS_THING, distances, 2, 4, 5, small_area)
    assert_targets(made, expected)
    touching = make_cops_targets(
        *(id_map, infos, IS_THING, distances),
        stride=2,
        small_area=small_area,
        small_weight=5,
        touching_weight=7,
    )
    expected = targets_by_loop(id_map, infos, IS_THING, distances, 2, 4, 5, small_area, 7)
    assert_targets(touching, expected)


def test_twin_sees_every_kind_of_edge():
    """The cases above are not void of what they compare."""
    id_map, infos = random_case(0, 16, 24)
    target = make_cops_targets(
        id_map, infos, IS_THING, (1, 2, 3, 16), stride=2, small_area=40, small_weight=5
    )["cops_target"]
    assert set(target.edge_weights.unique().tolist()) == {0, 1, 4, 20}
    counting = target.edge_weights > 0
    assert 0 < target.is_cut[counting].mean() < 1
    assert (target.sem_seg == 255).any() and any(i["iscrowd"] for i in infos)


def test_only_edges_from_thing_to_thing_take_the_weight_of_touching():
    # A row of stuff, two cells of one thing, one of another, stuff.
    id_map = np.array([[4, 9, 9, 8, 4]])
    infos = [segment(4, 0), segment(9, 1), segment(8, 3)]
    target = make_cops_targets(
        id_map, infos, IS_THING, (1, 2), stride=1, small_area=0, touching_weight=10
    )["cops_target"]
    assert target.edge_weights[0].tolist() == [[4, 4, 40, 4, 0]]
    # Distance 2, in the cells of the middles: from stuff; from thing to thing; to stuff.
    assert target.edge_weights[2].tolist() == [[0, 4, 40, 4, 0]]


def test_dtypes_and_shapes():
    id_map, infos = random_case(1, 13, 27)
    made = make_cops_targets(id_map, infos, IS_THING, (1, 4, 16))
    target = made["cops_target"]
    assert made["sem_seg"].dtype == torch.int64 and made["sem_seg"].shape == (13, 27)
    assert made["pixel_weights"].dtype == torch.float32
    assert target.segment_map.dtype == torch.int32 and target.segment_map.shape == (4, 7)
    assert target.classes.dtype == target.sem_seg.dtype == torch.int64
    for maps in (target.is_cut, target.edge_weights):
        assert maps.dtype == torch.float32 and maps.shape == (6, 4, 7)


def test_cuts_follow_from_the_segment_map_by_the_graphs_edges():
    """Another way to the same: the edge list, as the solver reads it."""
    id_map, infos = random_case(3, 40, 64)
    distances = (1, 4, 16)
    target = make_cops_targets(id_map, infos, IS_THING, distances, stride=2)["cops_target"]
    graph = grid_graph(20, 32, distances)
    ends = target.segment_map.numpy().reshape(-1)[graph.edges]
    counting = (ends >= 0).all(axis=1)
    is_cut = graph.edge_costs_from_maps(target.is_cut.numpy())
    weights = graph.edge_costs_from_maps(target.edge_weights.numpy())
    np.testing.assert_array_equal(weights > 0, counting)
    np.testing.assert_array_equal(is_cut[counting], ends[counting, 0] != ends[counting, 1])
    assert (target.edge_weights.numpy()[~graph.valid] == 0).all()


@pytest.mark.parametrize("infos", [[], [segment(5, 1)]])
def test_all_void(infos):
    made = make_cops_targets(np.zeros((9, 10), dtype=np.int32), infos, IS_THING, (1, 4))
    target = made["cops_target"]
    assert (made["sem_seg"] == 255).all() and (made["pixel_weights"] == 0).all()
    assert (target.segment_map == -1).all() and (target.sem_seg == 255).all()
    assert len(target.classes) == 0
    assert (target.edge_weights == 0).all() and (target.is_cut == 0).all()


def test_one_segment_has_no_cut():
    id_map = np.full((24, 20), 16_000_000, dtype=np.int32)
    made = make_cops_targets(id_map, [segment(16_000_000, 3)], IS_THING, (1, 4), small_area=480)
    target = made["cops_target"]
    assert (target.segment_map == 0).all() and target.classes.tolist() == [3]
    assert (target.is_cut == 0).all()
    # 480 pixels are not fewer than 480.
    assert (made["pixel_weights"] == 1).all()
    weights = target.edge_weights.numpy()
    np.testing.assert_array_equal(weights, 4 * grid_graph(6, 5, (1, 4)).valid)


def test_stuff_of_one_class_is_one_segment_and_things_are_not():
    id_map = np.array([[1, 2, 3, 4]])
    infos = [segment(1, 0), segment(2, 0), segment(3, 1), segment(4, 1)]
    target = make_cops_targets(id_map, infos, IS_THING, (1,), stride=1)["cops_target"]
    assert target.segment_map.tolist() == [[0, 0, 1, 2]]
    assert target.classes.tolist() == [0, 1, 1]
    assert target.is_cut[0].tolist() == [[0, 1, 1, 0]]


def test_crowd_keeps_its_class_but_is_no_segment():
    id_map = np.array([[1, 2, 3, 3]])
    infos = [segment(1, 1), segment(2, 1, iscrowd=1), segment(3, 0)]
    made = make_cops_targets(id_map, infos, IS_THING, (1,), stride=1)
    target = made["cops_target"]
    assert made["sem_seg"].tolist() == target.sem_seg.tolist() == [[1, 1, 0, 0]]
    assert target.segment_map.tolist() == [[0, -1, 1, 1]]
    assert target.edge_weights[0].tolist() == [[0, 0, 1, 0]]
    assert made["pixel_weights"].tolist() == [[3, 1, 1, 1]]


def test_segment_without_a_cell_is_dropped():
    id_map = np.ones((4, 8), dtype=np.int32)
    id_map[0, :3] = 2
    id_map[:, 4:] = 3
    infos = [segment(1, 0), segment(2, 1), segment(3, 3)]
    made = make_cops_targets(id_map, infos, IS_THING, (1,))
    assert made["cops_target"].segment_map.tolist() == [[0, 1]]
    assert made["cops_target"].classes.tolist() == [0, 3]
    # At full size it is still there, and small.
    assert made["sem_seg"][0].tolist() == [1, 1, 1, 0, 3, 3, 3, 3]
    assert made["pixel_weights"][0].tolist() == [3, 3, 3, 1, 3, 3, 3, 3]


def test_more_than_255_segments():
    id_map = np.arange(1, 401, dtype=np.int32).reshape(20, 20).repeat(2, 0).repeat(2, 1)
    infos = [segment(i, 1) for i in range(1, 401)]
    target = make_cops_targets(id_map, infos, IS_THING, (1,), stride=2)["cops_target"]
    assert target.segment_map.tolist() == np.arange(400).reshape(20, 20).tolist()


def test_bad_segments_are_refused():
    id_map = np.ones((4, 4), dtype=np.int32)
    for number in (-1, 4):
        with pytest.raises(ValueError, match=f"segment 1 has class {number}.*4 classes"):
            make_cops_targets(id_map, [segment(1, number)], IS_THING, (1,))
    with pytest.raises(ValueError, match="segment 1 is listed twice"):
        make_cops_targets(id_map, [segment(1, 0), segment(1, 1)], IS_THING, (1,))


# --------------------------------------------------------------------- target, config


def test_padding_is_void():
    id_map, infos = random_case(2, 16, 24)
    target = make_cops_targets(id_map, infos, IS_THING, (1, 2))["cops_target"]
    padded = target.padded((6, 9))
    for name in ("segment_map", "sem_seg", "pixel_weights", "is_cut", "edge_weights"):
        assert torch.equal(getattr(padded, name)[..., :4, :6], getattr(target, name))
    assert padded.is_cut.shape == padded.edge_weights.shape == (4, 6, 9)
    outside = torch.ones(6, 9, dtype=torch.bool)
    outside[:4, :6] = False
    assert (padded.segment_map[outside] == -1).all() and (padded.sem_seg[outside] == 255).all()
    assert (padded.pixel_weights[outside] == 0).all()
    assert (padded.edge_weights[:, outside] == 0).all()
    assert torch.equal(padded.classes, target.classes)
    with pytest.raises(ValueError, match="cannot pad"):
        target.padded((3, 9))


def test_target_moves_as_a_whole():
    id_map, infos = random_case(2, 8, 8)
    target = make_cops_targets(id_map, infos, IS_THING, (1,))["cops_target"].to("meta")
    assert isinstance(target, CopsTarget)
    assert all(value.device.type == "meta" for value in vars(target).values())


def config():
    cfg = get_cfg()
    add_cops_config(cfg)
    cfg.MODEL.PANOPTIC.IS_THING = IS_THING
    return cfg


def test_target_function_reads_the_config_and_can_be_pickled():
    cfg = config()
    cfg.MODEL.COPS.DISTANCES = (1, 3)
    cfg.MODEL.COPS.PRETRAIN.THING_WEIGHT = 7.0
    cfg.MODEL.COPS.PRETRAIN.SMALL_WEIGHT = 2.0
    cfg.MODEL.COPS.PRETRAIN.SMALL_AREA = 50
    cfg.MODEL.COPS.PRETRAIN.TOUCHING_WEIGHT = 3.0
    make_targets = pickle.loads(pickle.dumps(build_target_function(cfg)))
    id_map, infos = random_case(4, 23, 31)
    expected = targets_by_loop(id_map, infos, IS_THING, (1, 3), 4, 7, 2, 50, 3)
    assert_targets(make_targets(id_map, infos), expected)


def test_target_function_needs_a_completed_config():
    cfg = config()
    cfg.MODEL.PANOPTIC.IS_THING = ()
    with pytest.raises(ValueError, match="load_config"):
        build_target_function(cfg)
