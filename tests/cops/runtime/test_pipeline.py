"""COPS without torch: the same panoptic map as the model's, from the same network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cops_factory import IS_THING, tiny_config, tiny_model
from torch_export import TorchExport, noise_image, predictor_of

from cops.modeling.affinity_head import feature_differences
from cops.modeling.decoder import AtrousPyramid
from cops.modeling.export import export_model
from cops.runtime.pipeline import predict

C = "MODEL.COPS."
CHANGES = [
    {},
    {C + "INFERENCE.EDGE_OFFSET": 0.5, C + "SOLVER.METHOD": "multilevel"},
    {C + "INFERENCE.THING_AREA_LIMIT": 40, C + "INFERENCE.STUFF_AREA_LIMIT": 400},
    {C + "SIZE_DIVISIBILITY": 160},
]


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("size", [(61, 94), (64, 64)])
def test_the_map_is_the_models(changes, size):
    cfg = tiny_config({"INPUT.MIN_SIZE_TEST": 0, **changes})
    model = tiny_model(changes).eval()
    predictor = predictor_of(cfg, model, IS_THING)
    exported = TorchExport(export_model(model), cfg, predictor.class_table)
    for seed in range(3):
        image = noise_image(seed, size)
        expected = predictor(image)
        id_map, segments = predict(exported, image)
        np.testing.assert_array_equal(id_map, expected.id_map)
        assert segments == expected.segments_info


@pytest.mark.parametrize("distance", [1, 2, 5])
@pytest.mark.parametrize("size", [(7, 9), (2, 9), (1, 1)])
def test_differences_of_a_graph_are_those_of_torch(monkeypatch, distance, size):
    """Also where an edge fits nowhere: a graph has one way for maps of all sizes."""
    torch.manual_seed(0)
    features = torch.randn(1, 3, *size)
    expected = feature_differences(features, distance)
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    torch.testing.assert_close(feature_differences(features, distance), expected)


def test_the_least_size_holds_the_pooling_window():
    changes = {C + "SEMANTIC.ASPP_POOL_SIZE": (96, 64), C + "AFFINITY.ASPP_POOL_SIZE": (32, 128)}
    model = tiny_model(changes).eval()
    rows, columns = export_model(model).smallest
    stride = max(shape.stride for shape in model.backbone.output_shape().values())
    windows = [m.pool_window for m in model.modules() if isinstance(m, AtrousPyramid)]
    assert rows == stride * max(w[0] for w in windows) > stride
    assert columns == stride * max(w[1] for w in windows) > stride


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({C + "INFERENCE.STRIDE": 1}, "add MODEL.COPS.INFERENCE.STRIDE 4"),
        ({C + "INFERENCE.SEMANTIC_ORACLE": True}, "SEMANTIC_ORACLE needs the truth"),
    ],
)
def test_what_cannot_be_exported_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        export_model(tiny_model(changes).eval())
