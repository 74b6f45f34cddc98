"""Sets to search on, made in seconds: the digits, and synthetic ones from the closed form."""

from sio_ray.cli import run_stages
from sio_ray.config import load_config

OVERRIDES = (
    "prepare.images_per_ood_set=24",
    "prepare.num_outliers=24",
    "fit_generator.kind=gaussian",
    "generate.synthetic_ratio=0.25",
    "generate.num_inference_steps=4",
    "generate.num_actors=1",
    "train.width=8",
    "train.learning_rate=0.02",
    "tune.num_steps=12",
    "tune.num_trials=2",
    "tune.confirm_seeds=[]",
    # A process for each trial at once takes seconds to start; the search is the same.
    "tune.concurrent_trials=1",
)


def make_sets(folder):
    """Overrides of a config whose sets lie in a folder."""
    overrides = (*OVERRIDES, f"output_dir={folder}")
    run_stages(load_config("digits", overrides), ["prepare", "fit-generator", "generate"])
    return overrides


def write_space(folder, **space):
    """A space file; `__` stands for the dots of a field."""
    path = folder / "space.py"
    path.write_text(f"SPACE = { ({name.replace('__', '.'): entry for name, entry in space.items()})!r}\n")
    return f"tune.space={path}"


def without_seconds(result):
    """A result without what differs from run to run: seconds, and which trials were there already."""
    kept = {key: value for key, value in result.items() if key != "cost"}
    rows = [{key: value for key, value in row.items() if not key.endswith("_s")} for row in kept["trials"]]
    return {**kept, "trials": rows}
