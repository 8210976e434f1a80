"""Freezing: what is trained, what survives a step, and that checkpoints fit both ways."""

from __future__ import annotations

import copy
import io
import logging

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from torch import nn

from cops.finetune import freeze_batch_norm, freeze_for_finetuning
from cops.modeling.affinity_head import AffinityHead
from cops.modeling.cost_scale import CostScale
from cops.modeling.decoder import DeepLabDecoder
from cops.modeling.semantic_head import SemanticHead

SHAPES = {
    "res2": ShapeSpec(channels=8, stride=4),
    "res3": ShapeSpec(channels=8, stride=8),
    "res5": ShapeSpec(channels=8, stride=16),
}
NUM_CLASSES = 3
DISTANCES = (1, 2)


class Backbone(nn.Module):
    """Three maps, each half the size of the one before, with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))
            for _ in range(2)
        )

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.stem(images)
        maps = {"res2": x}
        for name, layer in zip(("res3", "res5"), self.layers, strict=True):
            x = maps[name] = layer(x.relu())
        return maps


def decoder(in_features=("res2", "res3", "res5"), norm="BN") -> DeepLabDecoder:
    return DeepLabDecoder(
        input_shape=SHAPES,
        in_features=in_features,
        project_channels=(4,) * (len(in_features) - 1),
        channels=8,
        aspp_channels=8,
        aspp_dilations=(1,),
        aspp_dropout=0.0,
        aspp_pool_size=(0, 0),
        norm=norm,
    )


class Model(nn.Module):
    """The parts of the meta-architecture that have parameters."""

    def __init__(self, norm="BN", in_features=("res2", "res3", "res5")) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.sem_seg_head = SemanticHead(
            decoder=decoder(in_features, norm), num_classes=NUM_CLASSES, head_channels=8, norm=norm
        )
        self.affinity_head = AffinityHead(
            decoder=decoder(in_features, norm),
            num_classes=NUM_CLASSES,
            distances=DISTANCES,
            head_channels=8,
            norm=norm,
        )
        self.cost_scale = CostScale(num_distances=len(DISTANCES))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.backbone(images)
        logits = self.sem_seg_head(features)
        class_costs = self.cost_scale.class_costs(logits)
        edge_costs = self.cost_scale.edge_costs(self.affinity_head(features, logits))
        return class_costs.square().mean() + edge_costs.square().mean()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def make_model(**kwargs) -> Model:
    torch.manual_seed(0)
    return Model(**kwargs)


def test_trains_last_layers_heads_classifiers_and_scales(images):
    model = make_model()
    names = freeze_for_finetuning(model)
    assert names == [n for n, p in model.named_parameters() if p.requires_grad]
    expected = {
        "sem_seg_head.decoder.fuse.res2.depthwise.weight",
        "sem_seg_head.decoder.fuse.res2.pointwise.weight",
        "sem_seg_head.head.0.weight",
        "sem_seg_head.head.1.weight",
        "sem_seg_head.predictor.weight",
        "sem_seg_head.predictor.bias",
        "cost_scale.class_scale",
        "cost_scale.class_offset",
        "cost_scale.edge_scale",
        "cost_scale.edge_offset",
    }
    assert expected <= set(names)
    assert "affinity_head.decoder.fuse.res2.pointwise.weight" in names
    # Whatever else is trained is a head or classifier of the affinities, and no norm.
    for name in set(names) - expected:
        assert name.startswith(
            ("affinity_head.head", "affinity_head.classifiers", "affinity_head.decoder.fuse.res2.")
        )
    assert not any(".norm." in name or name.startswith("backbone") for name in names)
    for index in range(len(DISTANCES)):
        assert any(name.startswith(f"affinity_head.classifiers.{index}.") for name in names)
    # All of it, and nothing else, gets a gradient.
    model.train()
    model(images).backward()
    assert [n for n, p in model.named_parameters() if p.grad is not None] == names


def test_steps_change_what_is_trained_and_nothing_else(images):
    model = make_model()
    with torch.no_grad():
        for _ in range(3):
            model(images)  # so that the running statistics are not those of the start
    names = freeze_for_finetuning(model)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        model.eval()
        model.train()
        optimizer.zero_grad()
        model(images + 5).backward()
        optimizer.step()
    after = model.state_dict()
    changed = [name for name in after if not torch.equal(before[name], after[name])]
    assert changed == names


def test_batch_norm_is_that_of_inference(images):
    model = make_model()
    with torch.no_grad():
        for _ in range(3):
            model(images)
    expected = copy.deepcopy(model).eval()(images)
    freeze_for_finetuning(model)
    assert torch.equal(model.train()(images), expected)
    # In training mode the result of the same model, not frozen, is another one.
    unfrozen = make_model()
    unfrozen.load_state_dict(model.state_dict())
    assert not torch.allclose(unfrozen.train()(images), expected)


@pytest.mark.parametrize("copied", [False, True])
def test_train_cannot_thaw_it(images, copied):
    model = make_model()
    freeze_for_finetuning(model)
    if copied:  # by pickling, as a process that is spawned would get it
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        model = torch.load(buffer, weights_only=False)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    means = [m.running_mean.clone() for m in norms]
    for m in norms:
        m.train()
    model.train()
    model(images)
    assert len(norms) > 10
    assert all(torch.equal(m.running_mean, mean) for m, mean in zip(norms, means, strict=True))
    assert all(m.num_batches_tracked == 0 for m in norms)
    # The rest of the model is in training mode, dropout for one.
    assert model.training and model.sem_seg_head.decoder.aspp.training


def test_checkpoints_fit_both_ways():
    frozen, other = make_model(), make_model()
    freeze_for_finetuning(frozen)
    assert list(frozen.state_dict()) == list(other.state_dict())
    other.load_state_dict(frozen.state_dict(), strict=True)
    frozen.load_state_dict(other.state_dict(), strict=True)
    assert all(p.requires_grad for p in other.parameters())


def test_twice_is_once():
    model = make_model()
    assert freeze_for_finetuning(model) == freeze_for_finetuning(model)


def test_what_was_frozen_stays_frozen():
    model = make_model()
    model.sem_seg_head.predictor.requires_grad_(False)
    model.affinity_head.decoder.fuse["res2"].requires_grad_(False)
    names = freeze_for_finetuning(model)
    assert not any("sem_seg_head.predictor" in name for name in names)
    assert not any("affinity_head.decoder" in name for name in names)


def test_group_norm_of_the_heads_is_trained():
    names = freeze_for_finetuning(make_model(norm="GN"))
    assert "sem_seg_head.head.0.norm.weight" in names
    assert "sem_seg_head.decoder.fuse.res2.pointwise.norm.weight" in names
    assert not any(name.startswith("backbone") for name in names)


def test_logs_how_much_is_trained(caplog):
    model = make_model()
    with caplog.at_level(logging.INFO, logger="cops.finetune"):
        freeze_for_finetuning(model)
    # A set: who has run a training in this process has given the package's logger handlers, and
    # the one that captures may be among them.
    (message,) = {r.getMessage() for r in caplog.records if r.name == "cops.finetune"}
    total = sum(p.numel() for p in model.backbone.parameters())
    assert f"backbone 0 of {total:,}" in message and "cost_scale 6 of 6" in message


def test_missing_parts_are_refused():
    for missing in ("backbone", "sem_seg_head", "affinity_head"):
        model = make_model()
        delattr(model, missing)
        with pytest.raises(ValueError, match=f"Model has no {missing}"):
            freeze_for_finetuning(model)
    model = make_model()
    del model.affinity_head.decoder.fuse
    with pytest.raises(ValueError, match="Model has no affinity_head.decoder.fuse"):
        freeze_for_finetuning(model)
    with pytest.raises(ValueError, match="no fusion, so no last layer"):
        freeze_for_finetuning(make_model(in_features=("res5",)))


def test_nothing_left_to_train_is_refused():
    model = make_model()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing is left to train"):
        freeze_for_finetuning(model)


def test_every_kind_of_batch_norm():
    model = nn.Sequential(
        nn.BatchNorm2d(4),
        nn.SyncBatchNorm(4),
        FrozenBatchNorm2d(4),
        nn.BatchNorm2d(4, affine=False),
    )
    state = copy.deepcopy(model.state_dict())
    freeze_batch_norm(model)
    model.train()
    model(torch.randn(2, 4, 3, 3) + 7)
    assert not any(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
