"""Which output depends on which field: a field too few gives stale results, one too many repeats hours of work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sio_ray.config import Config, build_config, dotted_keys, load_config, with_overrides
from sio_ray.stages import layout
from sio_ray.stages.layout import (
    evaluate_place,
    fit_generator_place,
    generate_place,
    prepare_place,
    report_place,
    run_order,
    synthetic_set_uri,
    train_runs,
)

REPORT = {"report"}
EVALUATE = {"evaluate"} | REPORT
SIO = {"sio"} | EVALUATE
BOTH_ARMS = {"baseline"} | SIO
GENERATE = {"generate"} | SIO
FIT_GENERATOR = {"fit-generator"} | GENERATE
EVERYTHING = {"prepare", "baseline"} | FIT_GENERATOR
NOTHING: set[str] = set()

#: Every field, another value for it, and the outputs that must then be made anew.
FIELDS: dict[str, tuple[Any, set[str]]] = {
    "name": ("other", NOTHING),
    "output_dir": ("/elsewhere", NOTHING),
    "methods": (["msp"], EVALUATE),  # of networks that are there already
    "prepare.source": ("image_folder", EVERYTHING),
    "prepare.root": ("/pictures", NOTHING),  # of a source that is not in use
    "prepare.download": (True, NOTHING),
    "prepare.benchmark": ("cifar10", NOTHING),
    "prepare.on_corrupt": ("skip", NOTHING),
    "prepare.image_size_px": (64, NOTHING),
    "prepare.channels": (1, NOTHING),
    "prepare.id_classes": ([0, 1], EVERYTHING),
    "prepare.near_ood_classes": ([9], EVERYTHING),
    "prepare.near_ood_sets": (["tin"], NOTHING),
    "prepare.far_ood_sets": (["mnist"], NOTHING),
    "prepare.shifted_sets": (["cifar10c"], NOTHING),
    "prepare.outliers": ("source", NOTHING),
    "prepare.val_fraction": (0.3, EVERYTHING),
    "prepare.test_fraction": (0.3, EVERYTHING),
    "prepare.train_fraction": (0.3, EVERYTHING),
    "prepare.images_per_ood_set": (7, EVERYTHING),
    "prepare.num_outliers": (7, EVERYTHING),
    "prepare.seed": (7, EVERYTHING),
    "fit_generator.kind": ("gaussian", FIT_GENERATOR),
    "fit_generator.gaussian_rank": (7, NOTHING),  # of a kind that is not in use
    "fit_generator.block_out_channels": ([8], FIT_GENERATOR),
    "fit_generator.layers_per_block": (3, FIT_GENERATOR),
    "fit_generator.attention": (False, FIT_GENERATOR),
    "fit_generator.num_steps": (7, FIT_GENERATOR),
    "fit_generator.global_batch_size": (7, FIT_GENERATOR),
    "fit_generator.learning_rate": (0.5, FIT_GENERATOR),
    "fit_generator.warmup_steps": (7, FIT_GENERATOR),
    "fit_generator.ema_decay": (0.5, FIT_GENERATOR),
    "fit_generator.label_dropout": (0.5, FIT_GENERATOR),
    "fit_generator.gradient_clip_norm": (0.5, FIT_GENERATOR),
    "fit_generator.precision": ("bfloat16", FIT_GENERATOR),
    "fit_generator.compile": (True, FIT_GENERATOR),
    "fit_generator.seed": (7, FIT_GENERATOR),
    "fit_generator.report_every_steps": (7, NOTHING),
    "fit_generator.preview_every_steps": (7, NOTHING),
    "fit_generator.num_workers": (7, NOTHING),
    "fit_generator.cpus_per_worker": (7, NOTHING),
    "fit_generator.gpus_per_worker": (1, NOTHING),
    "generate.generator": ("/a/generator", GENERATE),
    "generate.output": ("/a/set", GENERATE),
    "generate.synthetic_ratio": (2.5, GENERATE),
    "generate.num_images": (7, GENERATE),
    "generate.labels": ("proportional", GENERATE),
    "generate.num_classes": (6, GENERATE),
    "generate.class_names": (["zero"], GENERATE),
    "generate.class_ids": ([7], GENERATE),
    "generate.prompt": ("{class_name}", GENERATE),
    "generate.negative_prompt": ("blurry", GENERATE),
    "generate.image_size_px": (64, GENERATE),
    "generate.base_seed": (7, GENERATE),
    "generate.scheduler": ("edm_euler", GENERATE),
    "generate.num_inference_steps": (7, GENERATE),
    "generate.guidance_scale": (2.5, GENERATE),
    "generate.guidance_interval": ([0.5, 5.0], GENERATE),
    "generate.clip_denoised": (False, GENERATE),
    "generate.dtype": ("bfloat16", GENERATE),
    "generate.compile": (True, GENERATE),
    "generate.sampler_batch_size": (7, GENERATE),
    "generate.images_per_shard": (7, GENERATE),
    "generate.curation.classifier": ("/a/classifier", GENERATE),
    "generate.curation.min_confidence": (0.5, NOTHING),  # of a rule that is not in use
    "generate.curation.max_confidence": (0.5, NOTHING),
    "generate.curation.max_attempts": (7, NOTHING),
    "generate.threads_per_actor": (7, GENERATE),
    "generate.accelerator_type": ("H100", GENERATE),
    "generate.gpus_per_actor": (0.5, NOTHING),
    "generate.num_actors": (7, NOTHING),
    "generate.max_failures_per_shard": (7, NOTHING),
    "generate.shard_timeout_s": (7.0, NOTHING),
    "generate.max_shards_per_actor": (7, NOTHING),
    "generate.actor_memory_limit_gb": (7.0, NOTHING),
    "generate.max_wait_s": (7.0, NOTHING),
    "train.arms": (["sio"], EVALUATE),
    "train.seeds": ([0, 7], EVALUATE),
    "train.ensemble_size": (2, EVALUATE),  # the first member is there already
    "train.algorithm": ("mixup", BOTH_ARMS),
    "train.algorithm_options": ({"temperature": 2.0}, BOTH_ARMS),
    "train.network": ("resnet18_32px", BOTH_ARMS),
    "train.width": (7, BOTH_ARMS),
    "train.pretrained": ("IMAGENET1K_V1", BOTH_ARMS),
    "train.real_weight": (0.5, SIO),
    "train.real_weight_ramp": ({"start": 1.0}, SIO),
    "train.synthetic_ratio": (0.5, SIO),
    "train.synthetic_ratio_ramp": ({"start": 0.5}, SIO),
    "train.real_batch_share": (0.5, SIO),
    "train.synthetic_set": ("/a/set", SIO),
    "train.outlier_set": ("/a/set", BOTH_ARMS),
    "train.mixing_set": ("/a/set", BOTH_ARMS),
    "train.outlier_batch_size": (7, BOTH_ARMS),
    "train.num_steps": (7, BOTH_ARMS),
    "train.num_epochs": (7, BOTH_ARMS),
    "train.global_batch_size": (7, BOTH_ARMS),
    "train.micro_batches": (2, BOTH_ARMS),
    "train.learning_rate": (0.5, BOTH_ARMS),
    "train.schedule": ("step", BOTH_ARMS),
    "train.step_milestones": ([0.25], NOTHING),  # of a schedule that is not in use
    "train.step_factor": (0.5, NOTHING),
    "train.warmup_steps": (7, BOTH_ARMS),
    "train.momentum": (0.5, BOTH_ARMS),
    "train.weight_decay": (0.5, BOTH_ARMS),
    "train.label_smoothing": (0.5, BOTH_ARMS),
    "train.gradient_clip_norm": (0.5, BOTH_ARMS),
    "train.ema_decay": (0.5, BOTH_ARMS),
    "train.precision": ("bfloat16", BOTH_ARMS),
    "train.compile": (True, BOTH_ARMS),
    "train.sync_batch_norm": (True, BOTH_ARMS),
    "train.crop_padding_px": (7, BOTH_ARMS),
    "train.horizontal_flip": (True, BOTH_ARMS),
    "train.resized_crop": (True, BOTH_ARMS),
    "train.input_px": (7, BOTH_ARMS),
    "train.feed": ("stream", BOTH_ARMS),
    "train.memory_limit_gb": (7.0, BOTH_ARMS),
    "train.shuffle_window_images": (7, BOTH_ARMS),
    "train.report_every_steps": (7, BOTH_ARMS),  # as the best checkpoint is one of those reported
    "train.keep": ("best", EVALUATE),
    "train.num_workers": (7, NOTHING),
    "train.min_workers": (1, NOTHING),
    "train.cpus_per_worker": (7, NOTHING),
    "train.gpus_per_worker": (1, NOTHING),
    "train.decoders_per_worker": (7, NOTHING),
    "train.concurrent_runs": (7, NOTHING),
    "train.loggers": (["tensorboard"], NOTHING),
    "evaluate.detectors": (["energy"], EVALUATE),
    "evaluate.detector_options": ({"knn": {"k": 7}}, EVALUATE),
    "evaluate.sweep": (False, EVALUATE),
    "evaluate.full_spectrum": (True, EVALUATE),
    "evaluate.checkpoints": ({"baseline": ["given"]}, EVALUATE),
    "evaluate.outputs": ({"baseline": ["given"]}, EVALUATE),
    "evaluate.download": (True, NOTHING),
    "evaluate.on_overlap": ("stop", NOTHING),
    "evaluate.batch_size": (7, NOTHING),
    "evaluate.num_actors": (7, NOTHING),
    "evaluate.cpus_per_task": (7, NOTHING),
    "evaluate.gpus_per_task": (0.5, NOTHING),
    "evaluate.max_failures_per_shard": (7, NOTHING),
    "evaluate.shard_timeout_s": (7.0, NOTHING),
    "evaluate.max_wait_s": (7.0, NOTHING),
    "tune.space": ("other.py", NOTHING),  # a search reads these outputs; none of them reads a search
    "tune.algorithm": ("optuna", NOTHING),
    "tune.num_trials": (7, NOTHING),
    "tune.objectives": (["far_auroc"], NOTHING),
    "tune.detectors": (["msp"], NOTHING),
    "tune.fit_images": (7, NOTHING),
    "tune.max_accuracy_drop": (0.5, NOTHING),
    "tune.seeds": ([7], NOTHING),
    "tune.confirm_seeds": ([7], NOTHING),
    "tune.num_steps": (7, NOTHING),
    "tune.num_validations": (7, NOTHING),
    "tune.stopping": ("median", NOTHING),
    "tune.reduction_factor": (2, NOTHING),
    "tune.lookahead": (7, NOTHING),
    "tune.search_seed": (7, NOTHING),
    "tune.concurrent_trials": (7, NOTHING),
    "tune.cpus_per_trial": (7, NOTHING),
    "tune.gpus_per_trial": (0.5, NOTHING),
    "tune.workers_per_trial": (7, NOTHING),
    "tune.max_failures_per_trial": (7, NOTHING),
    "report.title": ("Other", REPORT),
    "report.images_per_class": (7, REPORT),
    "report.detector": ("msp", REPORT),
    "cluster.address": ("auto", NOTHING),
    "cluster.num_cpus": (7, NOTHING),
    "cluster.num_gpus": (7, NOTHING),
    "cluster.dashboard": (True, NOTHING),
    "cluster.log_json": (True, NOTHING),
}


def fingerprints(config: Config) -> dict[str, str]:
    """Output to fingerprint; the runs of seed 0 stand for their arms."""
    places = {
        "prepare": prepare_place(config),
        "fit-generator": fit_generator_place(config),
        "generate": generate_place(config),
        **{run.arm: run.place for run in train_runs(config) if (run.seed, run.member) == (0, 0)},
        "evaluate": evaluate_place(config),
        "report": report_place(config),
    }
    for place in places.values():
        assert place.folder.parent == config.run_dir
        assert place.folder.name.endswith(f"-{place.fingerprint}")
    return {name: place.fingerprint for name, place in places.items()}


def test_every_field_of_the_config_is_accounted_for() -> None:
    assert list(FIELDS) == dotted_keys()


@pytest.mark.parametrize("key", FIELDS)
def test_a_field_changes_those_outputs_that_it_decides_and_no_other(key: str) -> None:
    config = load_config("digits")
    value, expected = FIELDS[key]
    changes = {key: value} | ({"prepare.root": "/pictures"} if key == "prepare.source" else {})
    before, after = fingerprints(config), fingerprints(with_overrides(config, changes))
    assert with_overrides(config, changes) != config
    assert {name for name in before if name in after and before[name] != after[name]} == expected


#: Source to the fields that decide what it gives, beside `source` itself.
DECISIVE = {
    "digits": "id_classes near_ood_classes val_fraction test_fraction train_fraction images_per_ood_set num_outliers "
    "seed",
    "fashion_mnist": "id_classes near_ood_classes val_fraction train_fraction images_per_ood_set num_outliers seed",
    "cifar10": "near_ood_sets far_ood_sets outliers val_fraction train_fraction images_per_ood_set num_outliers seed",
    "cifar100": "near_ood_sets far_ood_sets outliers val_fraction train_fraction images_per_ood_set num_outliers seed",
    "imagenet": "root image_size_px channels id_classes near_ood_classes outliers val_fraction train_fraction "
    "images_per_ood_set num_outliers seed",
    "openood": "root benchmark image_size_px channels id_classes near_ood_sets far_ood_sets shifted_sets outliers "
    "train_fraction num_outliers seed",
    "image_folder": "root image_size_px channels outliers val_fraction test_fraction train_fraction images_per_ood_set "
    "num_outliers seed",
}


@pytest.mark.parametrize("source", DECISIVE)
def test_a_source_is_decided_by_its_own_fields(source: str) -> None:
    config = load_config("digits", [f"prepare.source={source}", "prepare.root=/first", "prepare.benchmark=imagenet200"])
    before = fingerprints(config)
    for key, (value, _) in FIELDS.items():
        section, _, field = key.partition(".")
        if section == "prepare" and field != "source":
            after = fingerprints(with_overrides(config, {key: value}))
            expected = EVERYTHING if field in DECISIVE[source].split() else NOTHING
            assert {name for name in before if before[name] != after[name]} == expected, key


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("fit_generator.kind=gaussian", "fit_generator.gaussian_rank", 7, FIT_GENERATOR),
        ("fit_generator.kind=gaussian", "fit_generator.num_steps", 7, NOTHING),
        ("fit_generator.kind=gaussian", "fit_generator.block_out_channels", [8], NOTHING),
        ("generate.curation.classifier=/a/classifier", "generate.curation.min_confidence", 0.5, GENERATE),
        ("generate.curation.classifier=/a/classifier", "generate.curation.max_attempts", 7, GENERATE),
        ("train.schedule=step", "train.step_milestones", [0.25], BOTH_ARMS),
        ("train.schedule=step", "train.step_factor", 0.5, BOTH_ARMS),
        ("train.num_epochs=3", "train.num_steps", 7, NOTHING),
        ("train.resized_crop=true", "train.crop_padding_px", 7, NOTHING),
        ("train.feed=memory", "train.memory_limit_gb", 7.0, NOTHING),
        ("train.feed=memory", "train.shuffle_window_images", 7, NOTHING),
        ("train.feed=stream", "train.memory_limit_gb", 7.0, NOTHING),
        ("train.feed=stream", "train.shuffle_window_images", 7, BOTH_ARMS),
    ],
)
def test_the_fields_of_what_is_in_use_decide(section: str, key: str, value: Any, expected: set[str]) -> None:
    config = load_config("digits", [section])
    before, after = fingerprints(config), fingerprints(with_overrides(config, {key: value}))
    assert {name for name in before if before[name] != after[name]} == expected


def test_a_set_that_stands_alone_does_not_depend_on_a_training_set() -> None:
    config = load_config("digits", ["generate.generator=/a/generator", "generate.num_images=10"])
    assert generate_place(config) == generate_place(with_overrides(config, {"prepare.seed": 7}))


def test_with_a_given_generator_the_fitted_one_decides_nothing() -> None:
    config = load_config("digits", ["generate.generator=/a/generator"])
    before, after = fingerprints(config), fingerprints(with_overrides(config, {"fit_generator.num_steps": 7}))
    assert {name for name in before if before[name] != after[name]} == {"fit-generator"}


def test_with_a_given_synthetic_set_the_generated_one_decides_nothing() -> None:
    config = load_config("digits", ["train.synthetic_set=/a/set"])
    before, after = fingerprints(config), fingerprints(with_overrides(config, {"generate.base_seed": 7}))
    assert {name for name in before if before[name] != after[name]} == {"generate"}


def test_a_batch_share_that_equals_its_default_is_no_change() -> None:
    config = load_config("digits")
    spelled_out = with_overrides(config, {"train.real_batch_share": config.train.real_weight})
    assert fingerprints(spelled_out) == fingerprints(config)


def test_the_same_file_by_a_relative_or_an_absolute_path_is_the_same_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inputs" / "this").mkdir(parents=True)  # or it would be a generator's hub id
    for key in ("prepare.root", "generate.generator", "train.synthetic_set"):
        config = load_config("digits", ["prepare.source=image_folder", "prepare.root=/pictures", "output_dir=/out"])
        relative = with_overrides(config, {key: "inputs/this"})
        absolute = with_overrides(config, {key: str(tmp_path / "inputs" / "this")})
        assert fingerprints(relative) == fingerprints(absolute), key
        with monkeypatch.context() as elsewhere:
            elsewhere.chdir("/")
            assert fingerprints(relative) != fingerprints(absolute), key


def test_the_synthetic_set_is_found_by_workers_with_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config("digits")
    assert synthetic_set_uri(config) == str(generate_place(config).folder / "images")
    for given, expected in (("a/set", f"{tmp_path}/a/set"), ("/a/set", "/a/set"), ("s3://a/set", "s3://a/set")):
        for key in ("train.synthetic_set", "generate.output"):
            assert synthetic_set_uri(with_overrides(config, {key: given})) == expected


def test_every_run_has_a_folder_of_its_own_that_other_seeds_and_arms_do_not_move() -> None:
    both = {run.name: run.place.folder for run in train_runs(load_config("digits", ["train.seeds=[0, 1, 2]"]))}
    assert list(both) == [f"{arm}, seed {seed}" for arm in ("baseline", "sio") for seed in (0, 1, 2)]
    assert len(set(both.values())) == 6
    alone = {run.name: run.place.folder for run in train_runs(load_config("digits", ["train.seeds=[2]"]))}
    assert alone == {name: folder for name, folder in both.items() if name.endswith("seed 2")}


def test_an_ensemble_takes_over_the_members_that_are_there_and_each_has_a_seed_of_its_own() -> None:
    alone, two, three = (
        {run.name: run for run in train_runs(load_config("digits", [f"train.ensemble_size={size}", "train.seeds=[4]"]))}
        for size in (1, 2, 3)
    )
    assert list(three) == [
        f"{arm}, seed 4{member}" for arm in ("baseline", "sio") for member in ("", ", member 1", ", member 2")
    ]
    assert alone.items() <= two.items() <= three.items()
    assert alone["sio, seed 4"].training_seed == 4
    assert len({(run.arm, run.training_seed) for run in three.values()}) == 6
    assert len({run.place.folder for run in three.values()}) == 6


def test_a_baseline_is_shared_by_configs_that_differ_in_synthetic_matters_only() -> None:
    first = load_config("digits", ["train.arms=[baseline]"])
    second = with_overrides(
        first, {"train.real_weight": 0.5, "generate.synthetic_ratio": 3.0, "fit_generator.num_steps": 9}
    )
    assert [run.place for run in train_runs(first)] == [run.place for run in train_runs(second)]


def test_an_identity_is_made_of_json_values_without_resources() -> None:
    config = build_config({"name": "a", "generate": {"generator": "b"}})
    identity = config.generate.identity()
    assert identity["generator"] == "b"
    assert set(identity).isdisjoint({"num_actors", "gpus_per_actor", "max_failures_per_shard"})


@pytest.mark.parametrize(
    ("overrides", "skipped"),
    [
        ([], set()),
        (["generate.generator=/some/model"], {"fit-generator"}),
        (["train.synthetic_set=/some/set"], {"fit-generator", "generate"}),
        (["train.arms=[baseline]"], {"fit-generator", "generate"}),
    ],
)
def test_a_run_does_not_make_what_is_given_or_unused(overrides: list[str], skipped: set[str]) -> None:
    every = ("prepare", "fit-generator", "generate", "train", "evaluate", "report")
    assert run_order(load_config("digits", overrides)) == tuple(stage for stage in every if stage not in skipped)


def test_networks_that_a_change_of_an_algorithm_made_wrong_are_trained_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {}
    for generation in (2, 3):
        monkeypatch.setitem(layout._ALGORITHM_GENERATIONS, "vos", generation)
        for algorithm in ("vos", "cross_entropy"):
            config = load_config("digits", [f"train.algorithm={algorithm}"])
            folders[algorithm, generation] = [run.place.folder for run in train_runs(config)]
    assert folders["cross_entropy", 2] == folders["cross_entropy", 3]
    assert not set(folders["vos", 2]) & set(folders["vos", 3])
