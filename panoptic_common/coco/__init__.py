"""COCO's panoptic form and its measure, in numpy: no torch, no Detectron2."""
