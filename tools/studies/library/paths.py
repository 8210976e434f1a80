"""Where the project lies, for every program of this folder."""

from __future__ import annotations

from pathlib import Path

# The folder of the packages, which need not be installed.
ROOT = Path(__file__).resolve().parents[3]
TRAIN_NET = ROOT / "tools/train_net.py"
