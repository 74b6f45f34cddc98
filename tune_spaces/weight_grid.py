"""The paper's ablation over alpha alone; a grid, so every value is tried and `tune.num_trials` does not matter."""

SPACE = {
    "train.real_weight": ("grid", [0.9, 0.8, 0.5, 0.2]),
}
