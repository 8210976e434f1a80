"""The network of COPS; importing `meta_arch` registers it with Detectron2."""

import panoptic_common.compat

from cops.modeling import backbone  # registers itself, so that configs can name it
