"""The paper's two knobs: the weight of real images, and how many synthetic ones there are."""

SPACE = {
    "train.real_weight": ("uniform", 0.5, 0.95),
    "train.synthetic_ratio": ("choice", [0.25, 0.5, 1.0]),
}
