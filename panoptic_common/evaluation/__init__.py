"""From a model's output to figures."""

import panoptic_common.compat
