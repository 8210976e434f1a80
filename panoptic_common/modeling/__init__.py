"""What the networks of all systems use."""

import panoptic_common.compat
