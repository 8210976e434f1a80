"""The built-in data set of synthetic street scenes, in numpy: no torch, no Detectron2."""
