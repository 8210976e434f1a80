"""The network of the COPS authors, from its state dict alone: what ours is compared with.

`entries` lists names and shapes as their repository makes them. `forward` computes the network by
plain functions of torch, in their conventions: vertical before horizontal, costs c = -s logit + o.
Nothing here uses our modules.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

BLOCKS = {"res2": 3, "res3": 4, "res4": 6, "res5": 3}
RES5_DILATIONS = (2, 4, 8)  # dilation 2 with multi-grid 1, 2, 4
DISTANCES = (1, 4, 16, 32, 64, 128)

State = dict[str, torch.Tensor]


# ---- names and shapes ---------------------------------------------------------------------------


class _Table(dict):
    """Name -> shape, filled layer by layer."""

    def conv(self, name: str, out: int, into: int, kernel: int, norm: bool = True) -> None:
        self[f"{name}.weight"] = (out, into, kernel, kernel)
        if not norm:
            self[f"{name}.bias"] = (out,)
            return
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            self[f"{name}.norm.{leaf}"] = (out,)
        self[f"{name}.norm.num_batches_tracked"] = ()

    def separable(self, name: str, out: int, into: int, kernel: int) -> None:
        self.conv(f"{name}.depthwise", into, 1, kernel)
        self.conv(f"{name}.pointwise", out, into, 1)

    def backbone(self) -> None:
        for index, (out, into) in enumerate(((64, 3), (64, 64), (128, 64)), 1):
            self.conv(f"backbone.stem.conv{index}", out, into, 3)
        into, width = 128, 64
        for stage, count in BLOCKS.items():
            for block in range(count):
                name = f"backbone.{stage}.{block}"
                if block == 0:
                    self.conv(f"{name}.shortcut", 4 * width, into, 1)
                self.conv(f"{name}.conv1", width, into, 1)
                self.conv(f"{name}.conv2", width, width, 3)
                self.conv(f"{name}.conv3", 4 * width, width, 1)
                into = 4 * width
            width *= 2

    def branch(self, branch: str, head: str, costs: int) -> None:
        aspp = f"{branch}.decoder.res5.project_conv"
        self.conv(f"{aspp}.convs.0", 256, 2048, 1)
        for index in (1, 2, 3):
            self.separable(f"{aspp}.convs.{index}", 256, 2048, 3)
        self.conv(f"{aspp}.convs.4.1", 256, 2048, 1, norm=False)
        self.conv(f"{aspp}.project", 256, 5 * 256, 1)
        for stage, into, projected in (("res2", 256, 32), ("res3", 512, 64)):
            self.conv(f"{branch}.decoder.{stage}.project_conv", projected, into, 1)
            self.separable(f"{branch}.decoder.{stage}.fuse_conv", 256, projected + 256, 5)
        self.conv(f"{branch}.{head}.0", 256, 256 + costs, 3)
        self.conv(f"{branch}.{head}.1", 256, 256, 3)


def entries(num_classes: int, num_distances: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all entries of their state dict."""
    table = _Table(pixel_mean=(3, 1, 1), pixel_std=(3, 1, 1))
    table.backbone()
    table.branch("sem_seg_head", "head", 0)
    table.branch("AFF_EMBED_head", "affinity_head", num_classes)
    table.conv("sem_seg_head.predictor", num_classes, 256, 1, norm=False)
    for index in range(num_distances):
        groups = 1 if index == 0 else 2
        name = f"AFF_EMBED_head.classifiers.{index}"
        table.conv(f"{name}.0", groups * 64, 256, 3)
        table.conv(f"{name}.1", groups * 32, 64, 3)
        table.conv(f"{name}.2", 2, groups * 32, 1, norm=False)
    table["amwc_layer.training_per_class_areas"] = (num_classes,)
    for index in range(2):
        table[f"amwc_layer.seg_cost_weights.{index}"] = (1,)
    for index in range(2 * num_distances):
        table[f"amwc_layer.edge_costs_weights.{index}"] = (1,)
    return dict(table)


def random_state(
    num_classes: int, num_distances: int, is_thing: tuple[bool, ...], seed: int = 0
) -> State:
    """Entries with random values, under which activations keep their size from layer to layer."""
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: tuple[int, ...], std: float, mean: float = 0.0) -> torch.Tensor:
        return mean + std * torch.randn(shape, generator=generator)

    state = {}
    for name, shape in entries(num_classes, num_distances).items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(shape, generator=generator)
        elif name.endswith(".norm.weight"):
            state[name] = normal(shape, 0.2, mean=0.7)
        elif len(shape) == 4:
            state[name] = normal(shape, (2 / (shape[1] * shape[2] * shape[3])) ** 0.5)
        else:
            state[name] = normal(shape, 0.3)
    # Scales may be negative: those of the edges count by their absolute value.
    state["amwc_layer.seg_cost_weights.0"] = torch.tensor([1.7])
    state["amwc_layer.edge_costs_weights.2"] = torch.tensor([-0.6])
    areas = [200.0 if thing else 2048.0 for thing in is_thing]
    state["amwc_layer.training_per_class_areas"] = torch.tensor(areas)
    state["pixel_mean"] = torch.tensor([120.0, 110.0, 100.0]).view(3, 1, 1)
    state["pixel_std"] = torch.tensor([60.0, 50.0, 40.0]).view(3, 1, 1)
    return state


# ---- forward ------------------------------------------------------------------------------------


def convolve(
    state: State, name: str, x: torch.Tensor, relu: bool = True, **options
) -> torch.Tensor:
    """Convolution that keeps the size at stride 1, batch norm with running statistics, ReLU."""
    weight = state[f"{name}.weight"]
    reach = options.get("dilation", 1) * (weight.shape[-1] // 2)
    x = F.conv2d(x, weight, state.get(f"{name}.bias"), padding=reach, **options)
    if f"{name}.norm.weight" in state:
        scale, shift, mean, variance = (
            state[f"{name}.norm.{leaf}"].view(-1, 1, 1)
            for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        x = (x - mean) / (variance + 1e-5).sqrt() * scale + shift
    return x.clamp(min=0) if relu else x


def separable(state: State, name: str, x: torch.Tensor, **options) -> torch.Tensor:
    x = convolve(state, f"{name}.depthwise", x, groups=x.shape[1], **options)
    return convolve(state, f"{name}.pointwise", x)


def resize(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


def backbone(state: State, x: torch.Tensor) -> State:
    """(N, 3, H, W) normalised images -> res2 (stride 4), res3 (8), res4 and res5 (16)."""
    for index, stride in enumerate((2, 1, 1), 1):
        x = convolve(state, f"backbone.stem.conv{index}", x, stride=stride)
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    features = {}
    for stage, count in BLOCKS.items():
        for block in range(count):
            name = f"backbone.{stage}.{block}"
            stride = 2 if block == 0 and stage in ("res3", "res4") else 1
            dilation = RES5_DILATIONS[block] if stage == "res5" else 1
            shortcut = x
            if block == 0:
                shortcut = convolve(state, f"{name}.shortcut", x, relu=False, stride=stride)
            y = convolve(state, f"{name}.conv1", x)
            y = convolve(state, f"{name}.conv2", y, stride=stride, dilation=dilation)
            y = convolve(state, f"{name}.conv3", y, relu=False)
            x = (y + shortcut).clamp(min=0)
        features[stage] = x
    return features


def decode(state: State, branch: str, features: State) -> torch.Tensor:
    """The decoder of a branch; the image is no larger than the window of the pooling."""
    x = features["res5"]
    aspp = f"{branch}.decoder.res5.project_conv"
    parts = [convolve(state, f"{aspp}.convs.0", x)]
    for index, dilation in enumerate((6, 12, 18), 1):
        parts.append(separable(state, f"{aspp}.convs.{index}", x, dilation=dilation))
    pooled = convolve(state, f"{aspp}.convs.4.1", x.mean(dim=(2, 3), keepdim=True))
    parts.append(pooled.expand_as(parts[0]))
    x = convolve(state, f"{aspp}.project", torch.cat(parts, dim=1))
    for stage in ("res3", "res2"):
        finer = convolve(state, f"{branch}.decoder.{stage}.project_conv", features[stage])
        x = torch.cat((finer, resize(x, finer)), dim=1)
        x = separable(state, f"{branch}.decoder.{stage}.fuse_conv", x)
    return x


def difference(x: torch.Tensor, distance: int, dim: int) -> torch.Tensor:
    """x[i + d / 2] - x[i - d / 2] along a dimension, zero where either leaves it; d is even."""
    result = torch.zeros_like(x)
    half, size = distance // 2, x.shape[dim]
    for i in range(half, size - half):
        result.select(dim, i).copy_(x.select(dim, i + half) - x.select(dim, i - half))
    return result


def forward(
    state: State, images: torch.Tensor, distances: tuple[int, ...]
) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor, list[torch.Tensor]]:
    """Class logits (N, K, h, w), edge logits (vertical, horizontal) per distance, their costs."""
    features = backbone(state, (images - state["pixel_mean"]) / state["pixel_std"])
    x = decode(state, "sem_seg_head", features)
    for index in range(2):
        x = convolve(state, f"sem_seg_head.head.{index}", x)
    class_logits = convolve(state, "sem_seg_head.predictor", x, relu=False)

    x = torch.cat((decode(state, "AFF_EMBED_head", features), class_logits), dim=1)
    for index in range(2):
        x = convolve(state, f"AFF_EMBED_head.affinity_head.{index}", x)
    edge_logits = []
    for index, distance in enumerate(distances):
        name = f"AFF_EMBED_head.classifiers.{index}"
        groups, y = 1, x
        if distance > 1:
            groups, y = 2, torch.cat([difference(x, distance, dim) for dim in (2, 3)], dim=1)
        y = convolve(state, f"{name}.0", y, groups=groups)
        y = convolve(state, f"{name}.1", y, groups=groups)
        edge_logits.append(convolve(state, f"{name}.2", y, relu=False))

    scale, offset = (state[f"amwc_layer.seg_cost_weights.{i}"] for i in range(2))
    class_costs = scale * -class_logits + offset
    edge_costs = [
        state[f"amwc_layer.edge_costs_weights.{2 * i}"].abs() * -logits
        + state[f"amwc_layer.edge_costs_weights.{2 * i + 1}"]
        for i, logits in enumerate(edge_logits)
    ]
    return class_logits, edge_logits, class_costs, edge_costs
