"""Schedules of the weight, with tune.algorithm=pbt: a population changes it on the way."""

SPACE = {
    "train.real_weight": ("uniform", 0.5, 0.95),
}
