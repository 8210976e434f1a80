"""What both panoptic systems use and neither owns: data, targets' raw material, quality, drawing.

Importing this package is cheap: it loads neither torch nor Detectron2. Import the module that
is needed, for example ``from panoptic_common.coco.quality import ...``.
"""

__version__ = "0.2.0"
