"""Semantic branch: how it starts, and what it gives for images of any size."""

from __future__ import annotations

import pytest
import torch
from cops_factory import HEAD_SHAPES, random_features, thin_head_config
from torch import nn

from cops.modeling.semantic_head import SemanticHead


def test_an_untrained_network_prefers_no_class():
    logits = SemanticHead(thin_head_config(), HEAD_SHAPES)(random_features(32, 32))
    assert logits.abs().max() < 0.1


@pytest.mark.parametrize("size", [(32, 48), (37, 51), (4, 4), (1, 1)])
def test_logits_have_the_size_of_the_finest_map_and_a_bias_for_each_class(size):
    head = SemanticHead(thin_head_config(), HEAD_SHAPES).eval()
    nn.init.zeros_(head.predictor.weight)
    head.predictor.bias.data = torch.tensor([1.0, 2.0, 3.0])
    logits = head(random_features(*size))
    assert tuple(logits.shape) == (2, 3, -(-size[0] // 4), -(-size[1] // 4))
    assert (logits == torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)).all()
