"""From arrays to images, with numpy and OpenCV: overlays of results, heat and sheets of them."""
