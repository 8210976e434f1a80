"""Algorithm 1's parts: the lifted labels and the perturbation."""

from __future__ import annotations

import numpy as np

from cops.layers.lifting import lift_classes, perturb


def test_every_class_has_a_label():
    assert lift_classes(np.array([2, 0, 2]), 4).tolist() == [2, 0, 2, 1, 3]
    assert lift_classes(np.array([], dtype=np.int64), 2).tolist() == [0, 1]


def test_only_the_masks_are_perturbed():
    lifted = np.arange(8, dtype=np.float32).reshape(2, 4)
    gradient = np.array([[1.0, -2.0], [0.5, 0.0]], dtype=np.float32)
    costs = perturb(lifted, gradient, 10.0)
    assert costs.tolist() == [[10.0, -19.0, 2.0, 3.0], [9.0, 5.0, 6.0, 7.0]]
    assert costs.flags.c_contiguous and costs.dtype == np.float32
    assert lifted[0].tolist() == [0.0, 1.0, 2.0, 3.0]  # used again for the next lambda
