"""From arrays to images, with numpy and OpenCV: overlays of results and sheets of them."""
