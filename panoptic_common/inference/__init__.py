"""From a checkpoint and an image, folder, video or camera to a result."""

import panoptic_common.compat
