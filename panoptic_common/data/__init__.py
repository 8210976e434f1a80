"""From the name of a data set to batches."""

import panoptic_common.compat
