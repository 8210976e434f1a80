"""The network of the Unified system, one file per part.

Importing it registers the backbone and the heads with Detectron2.
"""

import panoptic_common.compat

from unified_panoptic.modeling import backbone, roi_heads
