"""A detector's own options, with tune.detectors=[knn]: networks are trained once, and judged in each way."""

SPACE = {
    "evaluate.detector_options.knn.k": ("grid", [1, 5, 10, 50, 100]),
}
