"""From a checkpoint and an image, folder, video or camera to a result."""
