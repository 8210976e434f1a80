"""The networks of the Unified system; importing `meta_arch` registers them with Detectron2."""
