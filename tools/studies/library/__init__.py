"""What the studies share: options, trainings in a queue, meters, and tables."""

import panoptic_common.compat
