"""Initial weights fill a layer whole or not at all: with its offsets and its normalisation."""

from __future__ import annotations

import pytest
import torch
from checkpoint_factory import TinyModel, checkpointer_of, randomised
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn

from panoptic_common.checkpoint.fresh_layers import pop_orphans
from unified_panoptic.modeling.semantic_head import FeatureDecoder


def decoder(num_convs: int) -> FeatureDecoder:
    """The feature decoder with hidden layers of 16 channels and last ones of 8."""
    return FeatureDecoder(
        in_channels=16,
        in_features=["p2"],
        num_convs=num_convs,
        hidden_channels=16,
        channels=8,
        deformable=True,
        norm="GN",
    )


def test_a_decoder_of_another_depth_takes_whole_layers_only(tmp_path, caplog):
    """Three convolutions 16-16-8-8 are put into two, 16-8-8.

    The second of the file is 16-8 and the second of the model 8-8. The bias of its offsets (18) and
    its normalisation (8) would fit, and turn a fresh convolution from the first step on.
    """
    saved, model = TinyModel(), TinyModel()
    saved.decoder, model.decoder = decoder(3), decoder(2)
    checkpointer_of(randomised(saved), tmp_path).save("model")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with caplog.at_level("INFO"):
        checkpointer_of(model).load(str(tmp_path / "model.pth"), checkpointables=[])
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert not {name for name in changed if name.startswith("decoder.")}
    assert "backbone.0.weight" in changed and "sem_seg_head.predictor.weight" in changed
    assert "decoder.subnet.1.1.{weight, bias}" in caplog.text  # it starts afresh, and is told


def test_layers_that_fit_are_filled_whole(tmp_path):
    """The same depth: all of it is taken."""
    saved, model = TinyModel(), TinyModel()
    saved.decoder, model.decoder = decoder(2), decoder(2)
    checkpointer_of(randomised(saved), tmp_path).save("model")
    checkpointer_of(model).load(str(tmp_path / "model.pth"), checkpointables=[])
    theirs = saved.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(4), nn.SyncBatchNorm(4), FrozenBatchNorm2d(4), nn.GroupNorm(2, 4)]
)
def test_the_norm_behind_a_layer_belongs_to_it(norm):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU())
    fitting = {name: name for name in model.state_dict() if name != "0.weight"}
    orphans = pop_orphans(model, fitting, ["0.weight"])
    assert set(orphans) == {"0.bias", *(name for name in model.state_dict() if name[0] == "1")}
    assert set(fitting) == {"3.weight", "3.bias"}


def test_what_is_no_main_weight_takes_nothing_with_it():
    """A vector, such as the bias of a predictor of other classes, is only itself."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3))
    fitting = dict.fromkeys(["0.weight", "1.weight", "1.bias"])
    assert pop_orphans(model, fitting, ["0.bias"]) == [] and len(fitting) == 3
    assert pop_orphans(model, fitting, []) == []


def test_the_norm_inside_detectron2s_convolution_belongs_to_it():
    model = nn.Module()
    model.conv = Conv2d(3, 4, 1, norm=nn.BatchNorm2d(4))
    model.conv2 = Conv2d(3, 4, 1)  # a name that begins alike
    fitting = {name: name for name in model.state_dict() if name != "conv.weight"}
    pop_orphans(model, fitting, ["conv.weight"])
    assert set(fitting) == {"conv2.weight", "conv2.bias"}
