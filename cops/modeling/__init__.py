"""The network of COPS; importing `meta_arch` registers it with Detectron2."""
