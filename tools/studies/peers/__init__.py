"""Systems of others, made ready to be trained on the same images as ours; none of their code."""

import panoptic_common.compat
