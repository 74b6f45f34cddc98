"""How synthetic images are drawn: guidance and steps, beside the weight; each pair of the first two has its set."""

SPACE = {
    "generate.guidance_scale": ("choice", [1.0, 1.5, 2.0]),
    "generate.num_inference_steps": ("choice", [9, 18]),
    "train.real_weight": ("choice", [0.8, 0.9]),
}
