"""From arrays to pictures, with numpy and OpenCV: overlays of results and sheets of them."""
