"""What is refused before the first trial, and every space that ships."""

import re
from pathlib import Path

import pytest
from markdown_commands import read_document, sio_ray_commands

from sio_ray.config import load_config
from sio_ray.errors import BatchError, ConfigError
from sio_ray.search.search import Search
from sio_ray.search.space import read_space
from sio_ray.tune.checks import check_concurrency, check_objectives, check_space

SPACES = Path(__file__).parents[2] / "tune_spaces"

#: What a space needs of the config beside the digits preset.
NEEDS = {
    "detectors": ["tune.detectors=[knn]"],
    "curation": ["generate.curation.classifier=/a/checkpoint"],
    "schedules": ["tune.algorithm=pbt"],
}
NUM_REAL = 1000


def check(space, *overrides, num_synthetic=1000):
    check_space(space, load_config("digits", overrides), NUM_REAL, num_synthetic)


@pytest.mark.parametrize("path", sorted(SPACES.glob("*.py")), ids=lambda path: path.stem)
def test_every_space_that_ships_suits_the_digits(path):
    space, needs = read_space(path), NEEDS.get(path.stem, [])
    check(space, *needs, num_synthetic=None if path.stem in ("sampling", "curation") else 1000)
    assert Search(load_config("digits", needs), space).next({}).arm == "baseline"


def test_every_search_of_the_docs_could_begin(monkeypatch):
    monkeypatch.chdir(SPACES.parent)
    commands = sio_ray_commands(read_document("docs/tuning.md")) + sio_ray_commands(read_document("README.md"))
    commands = [arguments for arguments in commands if arguments[0] == "tune"]
    assert len(commands) == 8
    for _, preset, *rest in commands:
        names = {"--space": "tune.space=", "--num-trials": "tune.num_trials="}
        words = iter(rest)
        config = load_config(preset, [names[word] + next(words) if word in names else word for word in words])
        space = read_space(config.tune.space)
        check_space(space, config, NUM_REAL, 1000)
        search = Search(config, space)
        check_concurrency(config, learns=search.learns)
        assert search.next({}).arm == "baseline"


def test_every_space_that_ships_is_in_the_docs():
    document = read_document("docs/tuning.md")
    for path in SPACES.glob("*.py"):
        assert f"| `{path.name}` |" in document


@pytest.mark.parametrize("name", NEEDS)
def test_a_space_that_decides_nothing_is_refused(name):
    space = read_space(SPACES / f"{name}.py")
    if name == "schedules":
        check(space)  # a weight counts whatever the algorithm
        return
    key = next(iter(space))
    message = f"tune.space must be of fields that decide a trial's result with this config, got '{key}'; drop it"
    with pytest.raises(ConfigError, match=re.escape(message)):
        check(space, num_synthetic=None)


@pytest.mark.parametrize(
    ("space", "error", "message"),
    [
        (
            {"train.momentun": ("grid", [0.5])},
            ConfigError,
            "train.momentun must be a field of the config, got 0.5; did you mean train.momentum.",
        ),
        (
            {"tran.momentum": ("grid", [0.5])},
            ConfigError,
            "(train.*, generate.*, evaluate.detector_options.*), got 'tran.momentum'; did you mean train.momentum.",
        ),
        ({"train.momentum": ("uniform", 0.5, 1.5)}, ConfigError, "train.momentum must be less than 1.0, got 1.5;"),
        ({"prepare.seed": ("grid", [1])}, ConfigError, "got 'prepare.seed'; drop it from the space."),
        ({"train.seeds": ("grid", [[1]])}, ConfigError, "got 'train.seeds'; drop it from the space."),
        (
            {"train.synthetic_ratio": ("choice", [0.5, 0.75])},
            ConfigError,
            "train.synthetic_ratio must be at most 0.6, the 600 synthetic images at hand over 1,000 real ones, got "
            "0.75; draw 750 with generate.synthetic_ratio=0.75, or lower it in the space.",
        ),
        ({"train.real_weight": ("uniform", 0.5, 0.999)}, BatchError, "a batch of 128 cannot hold both sources at"),
        (
            {"train.num_workers": ("choice", [1, 2])},
            ConfigError,
            "of fields that decide a trial's result with this config, got 'train.num_workers'",
        ),
        (
            {"train.step_factor": ("uniform", 0.1, 0.5)},
            ConfigError,
            "got 'train.step_factor'; drop it from the space, or set the fields that make it count.",
        ),
    ],
)
def test_a_space_that_could_not_work_is_refused(space, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check(space, num_synthetic=600)


@pytest.mark.parametrize(
    ("space", "overrides", "message"),
    [
        (
            {"evaluate.detector_options.knn.q": ("choice", [1, 2])},
            ["tune.detectors=[knn]"],
            "evaluate.detector_options.knn.q must be an option of knn",
        ),
        (
            {"evaluate.detector_options.knn.k": ("uniform", 1.0, 5.0)},
            ["tune.detectors=[knn]"],
            "evaluate.detector_options.knn.k must be a whole number, got 2.273",
        ),
        (
            {"train.warmup_steps": ("uniform", 0.0, 100.0)},
            [],
            "train.warmup_steps must be a whole number, got 31.83",
        ),
        (
            {"train.real_weight": ("uniform", 0.5, 0.9)},
            ["tune.num_steps=3", "tune.num_validations=9"],
            "tune.num_validations must be at most the steps of a trial (3), got 9; judge trials less often, or train",
        ),
        (
            {"train.num_steps": ("integer", 1, 500)},
            [],
            "tune.num_validations must be at most the steps of a trial (1), got 4",
        ),
        (
            {"train.num_steps": ("integer", 100, 500)},
            ["train.num_steps=2"],
            "tune.num_validations must be at most the steps of a trial (2), got 4",
        ),
    ],
)
def test_a_space_whose_trials_would_all_fail_is_refused(space, overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        check(space, *overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["train.real_weight_ramp={start: 0.9}"],
            "train.real_weight_ramp must be left out while pbt searches train.real_weight, got {'start': 0.9}; drop it",
        ),
        (
            ["train.num_steps=3", "tune.num_steps=100"],
            "tune.num_validations must be at most the steps that the schedule is for (3), got 4",
        ),
    ],
)
def test_a_schedule_that_best_yaml_could_not_say_is_refused(overrides, message):
    space = {"train.real_weight": ("uniform", 0.5, 0.95)}
    with pytest.raises(ConfigError, match=re.escape(message)):
        check(space, "tune.algorithm=pbt", *overrides)
    check(space, "tune.algorithm=pbt", "train.synthetic_ratio_ramp={start: 0.5}")


@pytest.mark.parametrize("stopping", ["asha", "median"])
def test_stopping_is_refused_where_trials_take_finished_networks(stopping):
    # Such a trial has one validation, the last, which a rule would take for the first.
    space = {"evaluate.detector_options.knn.k": ("choice", [1, 5]), "train.real_weight": ("uniform", 0.5, 0.9)}
    options = ["tune.detectors=[knn]", "tune.num_validations=9"]
    message = f"tune.stopping must be none in a space over evaluate.*, got '{stopping}'; train to the end"
    with pytest.raises(ConfigError, match=re.escape(message)):
        check(space, *options, f"tune.stopping={stopping}")
    check(space, *options)


def test_one_place_for_the_sets_of_all_trials_is_refused():
    space = {"generate.guidance_scale": ("choice", [1.0, 2.0])}
    message = "generate.output must be left out in a space over generate.*, got '/sets/one'; drop it, as every trial's"
    with pytest.raises(ConfigError, match=re.escape(message)):
        check(space, "generate.output=/sets/one", num_synthetic=None)
    with pytest.raises(ConfigError, match=re.escape(message)):
        check({"generate.output": ("choice", ["/sets/one", "/sets/two"]), **space}, num_synthetic=None)
    check(space, num_synthetic=None)
    check({"train.real_weight": ("uniform", 0.5, 0.9)}, "generate.output=/sets/one")


def test_an_objective_without_a_validation_set_is_refused():
    config = load_config("digits", ["tune.objectives=[near_auroc,far_auroc]"])
    message = "tune.objectives must be of OOD groups with a validation set (near), got 'far_auroc'; choose another, or"
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_objectives(config, {"near"})
    check_objectives(config, {"near", "far"})
    check_objectives(load_config("digits", ["tune.objectives=[mean_auroc,val_accuracy]"]), {"near"})


def test_a_ratio_is_checked_against_the_set_that_a_trial_draws():
    space = {"generate.synthetic_ratio": ("choice", [0.5, 1.0]), "train.synthetic_ratio": ("choice", [0.5, 1.0])}
    with pytest.raises(ConfigError, match=re.escape("train.synthetic_ratio must be at most generate.synthetic_ratio")):
        check(space, num_synthetic=None)


def test_a_corner_of_two_fields_is_seen():
    # Each field alone is fine: 0.9 of 128 leaves synthetic images, and 4 images a batch hold both at 0.8.
    space = {"train.real_weight": ("uniform", 0.5, 0.9), "train.global_batch_size": ("choice", [4, 128])}
    with pytest.raises(BatchError, match="a batch of 4 cannot hold both sources"):
        check(space)
    check({"train.real_weight": space["train.real_weight"]})


def test_a_large_space_is_checked_a_field_at_a_time():
    many = {
        f"train.{name}": ("choice", [0.1, 0.2, 0.3, 0.4]) for name in ("momentum", "weight_decay", "label_smoothing")
    }
    many |= {"train.learning_rate": ("choice", [0.01, 0.02, 0.03, 0.04]), "train.real_weight": ("uniform", 0.5, 0.999)}
    with pytest.raises(BatchError):
        check(many)


def test_more_trials_side_by_side_than_a_learning_search_proposes_are_refused():
    config = load_config("digits", ["tune.algorithm=optuna", "tune.concurrent_trials=8"])
    message = "tune.concurrent_trials must be at most tune.lookahead (4) in a search that learns from results, got 8"
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_concurrency(config, learns=True)
    check_concurrency(config, learns=False)
    shared = load_config("digits", ["tune.gpus_per_trial=0.5", "tune.workers_per_trial=2"])
    with pytest.raises(ConfigError, match=r"tune\.gpus_per_trial must be 0 or 1 where trials have several workers"):
        check_concurrency(shared, learns=False)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tune.seeds=[1,1]", "tune.seeds must be without repeats"),
        ("tune.confirm_seeds=[100]", "tune.confirm_seeds must be other seeds than tune.seeds, got [100]"),
        ("tune.objectives=[auroc]", "tune.objectives.0 must be 'near_auroc', 'far_auroc', 'mean_auroc' or"),
        ("tune.max_accuracy_drop=2", "tune.max_accuracy_drop must be in [0, 1], got 2; give a share, such as 0.005."),
        ("tune.num_validations=0", "tune.num_validations must be at least 1, got 0"),
    ],
)
def test_a_section_that_contradicts_itself_is_refused(override, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config("digits", [override])


def test_asha_needs_a_rung():
    with pytest.raises(ConfigError, match=re.escape("tune.num_validations must be at least tune.reduction_factor (3)")):
        load_config("digits", ["tune.stopping=asha", "tune.num_validations=2"])
    with pytest.raises(ConfigError, match=r"tune\.stopping must be none with two objectives"):
        load_config(
            "digits", ["tune.stopping=asha", "tune.num_validations=9", "tune.objectives=[near_auroc,val_accuracy]"]
        )
