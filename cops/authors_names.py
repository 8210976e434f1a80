"""The networks that the authors of COPS have released: their parameters under our names.

Source: names and shapes of these networks; https://github.com/aabbas90/COPS for what they mean.
They are the networks of the paper (Abbas and Swoboda, NeurIPS 2021) with conventions of their own:

- Edges: their channel 0 and the first of their two groups of channels (Fig. 7) belong to vertical
  edges, ours to horizontal ones. Both halves of each classifier change places.
- Offsets: they add the offset o to the costs, c = -s logit + o; here c = -(s logit + o).
- Class costs: their affinity branch reads the class logits, ours minus the logits; the weights of
  these channels change sign.
- The number of distances: the paper has 6 on Cityscapes and 5 on COCO. The authors' pre-training
  configs have 5 and 4, the paper's lists without the greatest distance.

What their files say beyond the parameters, and what they do not say, is compared with a config by
`take_settings`.

Shapes: K classes; D distances.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.checkpoint.weight_names import is_counter, listed

if TYPE_CHECKING:
    from detectron2.config import CfgNode

# Of the greatest network, in cells of the stride-4 grid; smaller ones have the first ones of these.
DISTANCES = (1, 4, 16, 32, 64, 128)

# What is no parameter of the network: normalisation of the image, and areas below which a segment
# is rejected, one per class.
PIXEL_MEAN, PIXEL_STD = "pixel_mean", "pixel_std"
CLASS_AREAS = "amwc_layer.training_per_class_areas"
SETTINGS = (PIXEL_MEAN, PIXEL_STD, CLASS_AREAS)

# Settings of their networks that the shapes of the parameters do not show, by our keys.
HIDDEN_SETTINGS: dict[str, Any] = {
    "INPUT.FORMAT": "RGB",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.RES5_DILATION": 2,
    "MODEL.RESNETS.RES5_MULTI_GRID": [1, 2, 4],
    "MODEL.COPS.SEMANTIC.ASPP_DILATIONS": (6, 12, 18),
    "MODEL.COPS.AFFINITY.ASPP_DILATIONS": (6, 12, 18),
}
# The same for the window of the ASPP's pooling, their training crop, by K: Cityscapes, COCO.
POOL_SIZES = {19: (512, 1024), 133: (640, 640)}

_HEADS = {"sem_seg_head.": "sem_seg_head.", "AFF_EMBED_head.": "affinity_head."}
_IN_HEADS = (
    (r"decoder\.res\d\.project_conv\.convs\.\d+\.1\.", "decoder.aspp.pooled."),
    (r"decoder\.res\d\.project_conv\.convs\.(\d+)\.", r"decoder.aspp.branches.\1."),
    (r"decoder\.res\d\.project_conv\.project\.", "decoder.aspp.project."),
    (r"decoder\.(res\d)\.project_conv\.", r"decoder.project.\1."),
    (r"decoder\.(res\d)\.fuse_conv\.", r"decoder.fuse.\1."),
    (r"affinity_head\.", "head."),
    (r"(head|predictor|classifiers)\.", r"\1."),
)
_COST_SCALES = ("class_scale", "class_offset", "edge_scale", "edge_offset")


def our_name(name: str) -> str | None:
    """Translate the name of one of their parameters into ours; None if it is none.

    They have a parameter for each distance where we have a vector: those names get an index, as in
    "cost_scale.edge_scale[2]".
    """
    if name.startswith("backbone."):
        return name
    if match := re.fullmatch(r"amwc_layer\.seg_cost_weights\.([01])", name):
        return f"cost_scale.{_COST_SCALES[int(match[1])]}"
    if match := re.fullmatch(r"amwc_layer\.edge_costs_weights\.(\d+)", name):
        distance, kind = divmod(int(match[1]), 2)
        return f"cost_scale.{_COST_SCALES[2 + kind]}[{distance}]"
    for theirs, ours in _HEADS.items():
        if name.startswith(theirs):
            rest = name.removeprefix(theirs)
            for pattern, replacement in _IN_HEADS:
                if re.match(pattern, rest):
                    return ours + re.sub(pattern, replacement, rest, count=1)
    return None


def num_classes(weights: Mapping[str, torch.Tensor], path: str) -> int:
    """Return K of one of their networks.

    Args:
        weights: by their names.
        path: of the file, for the message.

    Raises:
        CheckpointError: there are no names of theirs.
    """
    predictor = weights.get("sem_seg_head.predictor.weight")
    if predictor is None or num_distances(weights) == 0:
        raise CheckpointError(
            f"{path} holds no network of the COPS authors: it has no "
            "sem_seg_head.predictor.weight, or no AFF_EMBED_head.classifiers.*; its entries are\n"
            + listed(list(weights), limit=20)
        )
    return predictor.shape[0]


def num_distances(weights: Mapping[str, torch.Tensor]) -> int:
    """Return D of one of their networks, the number of its classifiers of edges."""
    matches = (re.match(r"AFF_EMBED_head\.classifiers\.(\d+)\.", name) for name in weights)
    return max((int(match[1]) + 1 for match in matches if match), default=0)


def area_limits(areas: torch.Tensor, is_thing: Sequence[bool]) -> tuple[float, float] | None:
    """Return the areas in pixels below which a segment is rejected.

    Args:
        areas: (K,), their `CLASS_AREAS`.
        is_thing: K flags.

    Returns:
        (of things, of stuff), or None if the areas do not have one value for each kind.

    Raises:
        CheckpointError: there are two values, but for other classes than the things and the stuff.
    """
    flags = torch.tensor([bool(flag) for flag in is_thing])
    kinds = [areas[flags].unique().tolist(), areas[~flags].unique().tolist()]
    if all(len(values) == 1 for values in kinds):
        return kinds[0][0], kinds[1][0]
    if len(areas.unique()) == 2:
        raise CheckpointError(
            f"{CLASS_AREAS} has two values, as the areas of things and of stuff, but not for the "
            f"classes that the data set calls things: {areas.tolist()}"
        )
    return None


def take_settings(
    cfg: CfgNode,
    weights: Mapping[str, torch.Tensor],
    distances: Sequence[int] | None,
    path: str,
) -> list[str]:
    """Set, in place, what their file says, and check what it does not say.

    Args:
        cfg: a config of ours for the file's data set, complete.
        weights: of their file, by their names.
        distances: of the file's classifiers, in their order; None: see `choose_distances`.
        path: of the file, for messages.

    Returns:
        Remarks for the user, one per setting that was changed or not used.

    Raises:
        CheckpointError: the config, the distances or the classes do not fit the file; says how.
    """
    count = num_classes(weights, path)
    if count != cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
        raise CheckpointError(
            f"{path} has {count} classes, the data set of the config "
            f"{cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}: give the config of the file's data set"
        )
    require_hidden_settings(cfg, count)
    remarks = []
    configured = tuple(cfg.MODEL.COPS.DISTANCES)
    chosen = choose_distances(configured, num_distances(weights), distances, path)
    if chosen != configured:
        remarks.append(f"MODEL.COPS.DISTANCES becomes {chosen}; the config has {configured}.")
        cfg.MODEL.COPS.DISTANCES = chosen
    for name, key in ((PIXEL_MEAN, "PIXEL_MEAN"), (PIXEL_STD, "PIXEL_STD")):
        if name in weights:
            cfg.MODEL[key] = [float(value) for value in weights[name].flatten()]
    if CLASS_AREAS in weights:
        limits = area_limits(weights[CLASS_AREAS], cfg.MODEL.PANOPTIC.IS_THING)
        if limits is None:
            remarks.append(f"{CLASS_AREAS} is not used: it has not one value for all things.")
        else:
            node = cfg.MODEL.COPS.INFERENCE
            node.THING_AREA_LIMIT, node.STUFF_AREA_LIMIT = (round(limit) for limit in limits)
    return remarks


def require_hidden_settings(cfg: CfgNode, num_classes: int) -> None:
    """Compare a config with the settings that the shapes of their parameters do not show.

    Args:
        cfg: a config with the keys of COPS.
        num_classes: K of their network.

    Raises:
        CheckpointError: names every key that differs.
    """
    expected = dict(HIDDEN_SETTINGS)
    if num_classes in POOL_SIZES:
        for branch in ("SEMANTIC", "AFFINITY"):
            expected[f"MODEL.COPS.{branch}.ASPP_POOL_SIZE"] = POOL_SIZES[num_classes]
    wrong = []
    for key, value in expected.items():
        given: Any = cfg
        for part in key.split("."):
            given = given[part]
        both = (given, value)
        if isinstance(value, (tuple, list)):  # YAML has lists only
            both = (tuple(given), tuple(value))
        if both[0] != both[1]:
            wrong.append(f"{key} is {given}, theirs {value}")
    if wrong:
        raise CheckpointError(
            "the config is for another network than the authors':\n  " + "\n  ".join(wrong)
        )


def choose_distances(
    configured: Sequence[int], count: int, given: Sequence[int] | None, path: str
) -> tuple[int, ...]:
    """Choose the distances of a file's classifiers, of which it has the number only.

    Args:
        configured: by the config; taken if their number fits.
        count: D of the file.
        given: by the user; these have to fit. None: if the configured ones do not, the first D of
            `DISTANCES`.
        path: of the file, for the message.

    Returns:
        D distances, in cells of the stride-4 grid.

    Raises:
        CheckpointError: another number of distances than classifiers.
    """
    distances = tuple(given or configured)
    if not given and len(distances) != count:
        distances = DISTANCES[:count]
    if len(distances) != count:
        raise CheckpointError(
            f"{path} has classifiers for {count} distances: name as many by --distances"
        )
    return distances


def converted_weights(
    weights: Mapping[str, torch.Tensor],
    network: Mapping[str, torch.Tensor],
    distances: Sequence[int],
    path: str,
) -> dict[str, torch.Tensor]:
    """Convert their parameters to our names and conventions.

    Args:
        weights: of their file, by their names; left as they are.
        network: state dict of our network, whose names and shapes must be filled.
        distances: D distances of that network, in the order of its classifiers.
        path: of the file, for messages.

    Returns:
        All entries of `network`, but for counters of batch norm that the file lacks.

    Raises:
        CheckpointError: an entry of either side has no partner, or one of another shape; names all.
    """
    theirs = {name: our_name(name) for name in weights if name not in SETTINGS}
    expected = _indexed_shapes(network)
    found = {ours: name for name, ours in theirs.items() if ours in expected}
    used = set(found.values())
    unused = [n for n in theirs if n not in used and not is_counter(n)]
    missing = [n for n in expected if n not in found and not is_counter(n)]
    shapes = {ours: (tuple(weights[name].shape), expected[ours]) for ours, name in found.items()}
    misfits = {ours: pair for ours, pair in shapes.items() if pair[0] != pair[1]}
    if unused or missing or misfits:
        everything = len(weights) + len(expected)
        raise CheckpointError(
            f"{path} does not fit the config's network, so nothing is converted.\n"
            f"Entries of the file that are not used:\n{listed(unused, limit=everything)}\n"
            f"Entries of the network that are not filled:\n{listed(missing, limit=everything)}\n"
            f"Entries of other shapes:\n{listed(list(misfits), misfits, limit=everything)}"
        )
    ours = {
        name: _in_our_convention(name, weights[their_name], distances)
        for name, their_name in found.items()
    }
    _turn_class_costs(ours, network)
    return _joined(ours)


def _indexed_shapes(network: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Map names to shapes; a vector over distances becomes D entries of shape (1,)."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, value in network.items():
        if name.startswith("cost_scale.edge_"):
            shapes.update({f"{name}[{index}]": (1,) for index in range(len(value))})
        else:
            shapes[name] = tuple(value.shape)
    return shapes


def _joined(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Put the D entries of each vector over distances together again."""
    joined = {name: value for name, value in weights.items() if not name.endswith("]")}
    vectors = {name.partition("[")[0] for name in weights.keys() - joined.keys()}
    for vector in sorted(vectors):
        count = sum(name.startswith(f"{vector}[") for name in weights)
        joined[vector] = torch.cat([weights[f"{vector}[{index}]"] for index in range(count)])
    return joined


def _in_our_convention(name: str, value: torch.Tensor, distances: Sequence[int]) -> torch.Tensor:
    """Turn the authors' edges and offsets in a parameter, by our name, into ours."""
    if "_offset" in name and name.startswith("cost_scale."):
        return -value
    match = re.match(r"affinity_head\.classifiers\.(\d+)\.(\d)\.", name)
    if match is None or value.ndim == 0:
        return value
    grouped = distances[int(match[1])] > 1
    if match[2] == "2":  # the 1x1 convolution: its two outputs are the two directions
        value = _halves_exchanged(value, 0)
        return _halves_exchanged(value, 1) if grouped and value.ndim > 1 else value
    return _halves_exchanged(value, 0) if grouped else value


def _turn_class_costs(
    weights: dict[str, torch.Tensor], network: Mapping[str, torch.Tensor]
) -> None:
    """Change the sign of what the affinity branch makes of its last K input channels, in place."""
    name = "affinity_head.head.0.weight"
    count = network["sem_seg_head.predictor.weight"].shape[0]
    weight = weights[name].clone()
    weight[:, -count:] *= -1
    weights[name] = weight


def _halves_exchanged(value: torch.Tensor, dim: int) -> torch.Tensor:
    """Exchange the halves of a tensor along a dimension."""
    first, second = value.chunk(2, dim)
    return torch.cat((second, first), dim)
