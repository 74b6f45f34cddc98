"""How sure a real-trained classifier must be of an image's label; needs generate.curation.classifier."""

SPACE = {
    "generate.curation.min_confidence": ("choice", [0.0, 0.5, 0.9]),
    "train.real_weight": ("choice", [0.8, 0.9]),
}
