"""The training loop of every system, exact and resumable."""

import panoptic_common.compat
