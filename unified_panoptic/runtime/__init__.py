"""From exported networks to panoptic maps; needs numpy, neither torch nor Detectron2."""
