"""Out-of-distribution scores: what a network says of images, the detectors that read it, and the metrics."""
