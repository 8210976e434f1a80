"""Dropout of costs: what is dropped, and what stays."""

from __future__ import annotations

import pytest
import torch
from cops_factory import seeded

from cops.layers.cost_dropout import drop_costs


def test_dropped_costs():
    class_costs = torch.ones(2, 3, 40, 50, requires_grad=True)
    edge_costs = torch.ones(2, 4, 40, 50, requires_grad=True)
    nodes, edges = drop_costs(class_costs, edge_costs, 0.1, seeded())
    # All classes of a cell together; nothing is scaled up.
    assert ((nodes.sum(dim=1) == 0) | (nodes.sum(dim=1) == 3)).all()
    assert set(edges.unique().tolist()) == {0.0, 1.0}
    assert abs(float((nodes == 0).float().mean()) - 0.1) < 0.02
    assert abs(float((edges == 0).float().mean()) - 0.1) < 0.02
    (nodes.sum() + edges.sum()).backward()
    assert torch.equal(class_costs.grad, nodes) and torch.equal(edge_costs.grad, edges)
    again = drop_costs(class_costs, edge_costs, 0.1, seeded())
    assert torch.equal(again[0], nodes) and torch.equal(again[1], edges)
    assert drop_costs(class_costs, edge_costs, 0.0, seeded())[0] is class_costs
    with pytest.raises(ValueError, match="share is 1.5"):
        drop_costs(class_costs, edge_costs, 1.5, seeded())
