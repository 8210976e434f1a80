"""From exported networks to panoptic maps; needs numpy and Numba, neither torch nor Detectron2."""
