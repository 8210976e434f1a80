"""Weights in and out: reading what can be trusted, matching names, writing whole files."""

import panoptic_common.compat
