"""The weight together with what else decides training, as the best weight is another one for another recipe."""

SPACE = {
    "train.real_weight": ("uniform", 0.5, 0.95),
    "train.learning_rate": ("loguniform", 0.01, 0.3),
    "train.weight_decay": ("loguniform", 1e-5, 1e-3),
    "train.num_steps": ("choice", [300, 600, 1200]),
}
