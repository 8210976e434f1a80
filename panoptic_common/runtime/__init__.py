"""What exported networks need beside onnxruntime: numpy, Pillow, neither torch nor Detectron2."""
