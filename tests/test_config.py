"""The config: what is taken, what is refused with which words, and that nothing is lost on the way to YAML and back."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sio_ray.config import (
    STAGES,
    Config,
    build_config,
    dotted_keys,
    load_config,
    preset_names,
    to_yaml,
    with_overrides,
)
from sio_ray.config.places import places
from sio_ray.errors import ConfigError

QUOTE = """quote it for YAML, as in key='"..."' on a command line."""
NO_COMMENT = "without ' #', at which YAML begins a comment"


def value_at(config: Config, key: str) -> Any:
    """The JSON value of a dotted key."""
    value = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value


def write(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_loads_under_its_own_name(preset: str) -> None:
    assert load_config(preset).name == preset


@pytest.mark.parametrize("preset", preset_names())
def test_a_config_comes_back_from_yaml_as_it_was(preset: str, tmp_path: Path) -> None:
    changes = {
        "train.synthetic_ratio": 0.5,
        "report.title": "Größe: 8 # px",
        "generate.generator": "a b",
        "tune.seeds": [7],
    }
    for config in (load_config(preset), with_overrides(load_config(preset), changes)):
        assert load_config(write(tmp_path, to_yaml(config))) == config


def test_every_stage_has_its_section() -> None:
    assert {stage.replace("-", "_") for stage in STAGES} <= set(Config.model_fields)
    assert {key.split(".")[0] for key in dotted_keys()} == set(Config.model_fields)


@pytest.mark.parametrize("key", dotted_keys())
def test_overriding_any_key_with_the_value_it_has_changes_nothing(key: str) -> None:
    config = load_config("digits")
    # YAML in one line, as a shell would pass it.
    text = yaml.safe_dump(value_at(config, key), default_flow_style=True, width=10_000).removesuffix("\n...\n")
    assert load_config("digits", [f"{key}={text}"]) == config


def test_overrides_are_yaml_and_the_last_one_counts() -> None:
    config = load_config(
        "digits",
        [
            "train.seeds=[3, 4]",
            "train.learning_rate=1e-3",
            "train.horizontal_flip=yes",
            "train.synthetic_ratio=null",
            "report.title=a = b",
            "cluster.address=ray://head:10001",
            "train.num_steps=5",
            "train.num_steps=7",
        ],
    )
    assert config.train.seeds == (3, 4)
    assert config.train.learning_rate == 1e-3
    assert config.train.horizontal_flip is True
    assert config.train.synthetic_ratio is None
    assert config.report.title == "a = b"
    assert config.cluster.address == "ray://head:10001"
    assert config.train.num_steps == 7
    assert load_config("digits").train.num_steps != 7


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ('output_dir="/a #b"', "/a #b"),
        ("output_dir='/a: b'", "/a: b"),
        ("output_dir=/a#b", "/a#b"),
        ("output_dir=/a ", "/a"),
        ("report.title=|\n  a\n", "a\n"),
        ("report.title='3'", "3"),
        ("evaluate.detector_options={knn: {k: 5}}\n", {"knn": {"k": 5}}),
        ("evaluate.detector_options=knn:\n  k: 5\n", {"knn": {"k": 5}}),
    ],
)
def test_the_whole_of_an_override_is_taken(override: str, value: Any) -> None:
    assert value_at(load_config("digits", [override]), override.partition("=")[0]) == value


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for config in (
        load_config("digits", ["output_dir=~/runs"]),
        load_config(write(tmp_path, "name: digits\noutput_dir: ~/runs\n")),
        with_overrides(load_config("digits"), {"output_dir": "~/runs"}),
    ):
        assert config.output_dir == tmp_path / "runs"
        assert config.run_dir == tmp_path / "runs" / "digits"


@pytest.mark.parametrize(
    "field",
    [
        "prepare.root",
        *(f"generate.{name}" for name in ("generator", "output", "curation.classifier")),
        *(f"train.{name}" for name in ("synthetic_set", "outlier_set", "mixing_set")),
        "tune.space",
    ],
)
def test_a_tilde_is_the_home_folder_in_every_path(field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config("digits", [f"{field}=~/mine"])
    assert str(value_at(config, field)) == str(tmp_path / "mine")
    assert dict(places(config))[field] == str(tmp_path / "mine")


def test_a_tilde_is_the_home_folder_in_a_list_of_paths_and_is_left_alone_in_a_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config("digits", ["evaluate.outputs={sio: [~/a, /b]}", "report.title=~ and more"])
    assert config.evaluate.outputs == {"sio": (str(tmp_path / "a"), "/b")}
    assert config.report.title == "~ and more"


def test_an_override_reaches_a_section_that_the_file_leaves_out(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "name: bare\n"), ["train.real_weight=0.25"])
    assert (config.train.real_weight, config.train.batch_share) == (0.25, 0.25)
    assert with_overrides(config, {"train.real_batch_share": 0.0}).train.batch_share == 0.0


def test_with_overrides_validates_and_leaves_the_original_alone() -> None:
    config = load_config("digits")
    changed = with_overrides(config, {"train.real_weight": 0.5, "train.width": 8})
    assert (changed.train.real_weight, changed.train.width) == (0.5, 8)
    assert config == load_config("digits")
    with pytest.raises(ConfigError, match=r"train\.width must be at least 4, got 3; correct the value\."):
        with_overrides(config, {"train.width": 3})


def test_the_run_folder_does_not_move_with_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("digits", ["output_dir=here"]).run_dir == tmp_path / "here" / "digits"
    assert load_config("digits", ["output_dir=/there"]).run_dir == Path("/there/digits")


UNKNOWN = "must be a field of the config"
SEE = "see `sio-ray config digits` for the valid ones"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        # Unknown keys.
        ("train.real_wieght=0.9", f"train.real_wieght {UNKNOWN}, got 0.9; did you mean train.real_weight."),
        ("trian.real_weight=0.9", f"trian.real_weight {UNKNOWN}, got 0.9; did you mean train.real_weight."),
        ("real_weight=0.9", f"real_weight {UNKNOWN}, got 0.9; did you mean train.real_weight."),
        ("fit-generator.seed=1", f"fit-generator.seed {UNKNOWN}, got 1; did you mean fit_generator.seed."),
        ("zzz=1", f"zzz {UNKNOWN}, got 1; {SEE}."),
        ("train.seeds.0=1", f"train.seeds.0 {UNKNOWN}, got 1; did you mean train.seeds."),
        # No overrides at all.
        (
            "train.num_steps",
            "override must be of the form section.field=value, got 'train.num_steps'; "
            "write e.g. train.real_weight=0.9.",
        ),
        ("=3", "override must be of the form section.field=value, got '=3'; write e.g. train.real_weight=0.9."),
        ("train.seeds=[1", "train.seeds must be valid YAML, got '[1'; quote the value."),
        # Ranges.
        ("train.real_weight=80", "train.real_weight must be in [0, 1], got 80; give a share, not a percentage."),
        ("train.real_weight=-0.1", "train.real_weight must be in [0, 1], got -0.1; give a share, not a percentage."),
        (
            "train.real_batch_share=1.01",
            "train.real_batch_share must be in [0, 1], got 1.01; give a share, not a percentage.",
        ),
        (
            "prepare.val_fraction=20",
            "prepare.val_fraction must be less than 1.0, got 20; give a share, not a percentage.",
        ),
        (
            "generate.synthetic_ratio=0",
            "generate.synthetic_ratio must be greater than 0.0, got 0; give a ratio to the real set, such as 1.0.",
        ),
        (
            "train.synthetic_ratio=-1",
            "train.synthetic_ratio must be at least 0.0, got -1; give a ratio to the real set, such as 1.0.",
        ),
        ("evaluate.gpus_per_task=2", "evaluate.gpus_per_task must be in [0, 1], got 2; correct the value."),
        ("report.images_per_class=41", "report.images_per_class must be in [1, 40], got 41; correct the value."),
        ("train.num_steps=0", "train.num_steps must be at least 1, got 0; correct the value."),
        ("train.learning_rate=0", "train.learning_rate must be greater than 0.0, got 0; correct the value."),
        ("train.learning_rate=.inf", "train.learning_rate must be a finite number, got inf; correct the value."),
        ("train.learning_rate=.nan", "train.learning_rate must be a finite number, got nan; correct the value."),
        ("fit_generator.ema_decay=1", "fit_generator.ema_decay must be less than 1.0, got 1; correct the value."),
        # Types.
        ("train.num_steps=1.5", "train.num_steps must be a whole number, got 1.5; correct the value."),
        ("train.num_steps=1e3", "train.num_steps must be a whole number, got '1e3'; correct the value."),
        ("train.num_steps=many", "train.num_steps must be a whole number, got 'many'; correct the value."),
        ("train.num_steps=", "train.num_steps must be a whole number, got None; correct the value."),
        ("train.num_steps=yes", "train.num_steps must be a whole number, got True; correct the value."),
        ("tune.num_steps=on", "tune.num_steps must be a whole number, got True; correct the value."),
        ("train.real_weight=yes", "train.real_weight must be a number, got True; give a share, not a percentage."),
        (
            "train.synthetic_ratio=off",
            "train.synthetic_ratio must be a number, got False; give a ratio to the real set, such as 1.0.",
        ),
        ("train.learning_rate=[0.1]", "train.learning_rate must be a number, got [0.1]; correct the value."),
        ("train.horizontal_flip=3", "train.horizontal_flip must be true or false, got 3; correct the value."),
        ("train.seeds=3", "train.seeds must be a list, got 3; correct the value."),
        ("train.seeds=[]", "train.seeds must be a list of at least 1, got []; correct the value."),
        ("train.seeds=[0, a]", "train.seeds.1 must be a whole number, got 'a'; correct the value."),
        ("train.seeds=[0, 0]", "train.seeds must be without repeats, got (0, 0); name each once."),
        ("train.arms=[soi]", "train.arms.0 must be 'baseline' or 'sio', got 'soi'; correct the value."),
        ("prepare.channels=2", "prepare.channels must be 1 or 3, got 2; correct the value."),
        (
            "prepare.source=mnist",
            "prepare.source must be 'digits', 'fashion_mnist', 'cifar10', 'cifar100', 'imagenet', 'openood' or "
            "'image_folder', got 'mnist'; correct the value.",
        ),
        ("report.title=3", f"report.title must be text, got 3; {QUOTE}"),
        ("output_dir=3", f"output_dir must be a path, got 3; {QUOTE}"),
        ("output_dir=/a: b", f"output_dir must be a path, got {{'/a': 'b'}}; {QUOTE}"),
        ("report.title=Run 1: x", f"report.title must be text, got {{'Run 1': 'x'}}; {QUOTE}"),
        ("name=", "name must be text, got None; correct the value."),
        (
            "output_dir=~nobody-of-this-name/a",
            "output_dir must be below the home of a user that exists, got '~nobody-of-this-name/a'; correct the value.",
        ),
        (
            "generate.generator=~nobody-of-this-name/a",
            "generate.generator must be below the home of a user that exists, got '~nobody-of-this-name/a'; correct "
            "the value.",
        ),
        ("output_dir=/a #b", f"output_dir must be {NO_COMMENT}, got '/a #b'; leave it out, or {QUOTE}"),
        ("report.title=#1", f"report.title must be {NO_COMMENT}, got '#1'; leave it out, or {QUOTE}"),
        ("train.seeds=[0, 1] # two", f"train.seeds must be {NO_COMMENT}, got '[0, 1] # two'; leave it out, or {QUOTE}"),
        (
            "evaluate.detector_options.knn=5",
            "evaluate.detector_options.knn must be a mapping, got 5; correct the value.",
        ),
        (
            "name=../up",
            "name must be letters, digits, '_', '.' and '-', beginning with a letter or a digit, "
            "got '../up'; correct the value.",
        ),
        # Fields that contradict each other.
        (
            "prepare.source=image_folder",
            "prepare.root must be a folder for source image_folder, got None; set prepare.root=/your/pictures.",
        ),
        (
            "prepare.near_ood_classes=[5, 6, 1]",
            "prepare.near_ood_classes must be disjoint from id_classes, got [1, 5]; keep each class on one side.",
        ),
        (
            "prepare.val_fraction=0.8",
            "prepare.test_fraction must be less than 1 together with val_fraction, got 1.0; leave images to train on.",
        ),
    ],
)
def test_a_bad_override_is_refused_in_these_words(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("digits", [override])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config must be a mapping of sections, got 'NoneType'; see a preset for the form."),
        ("- name\n", "config must be a mapping of sections, got 'list'; see a preset for the form."),
        ("output_dir: runs\n", "name must be given, got None; add name to the config."),
        ("name: a\nname2: b\n", f"name2 {UNKNOWN}, got 'b'; did you mean name."),
        ("name: a\ntrian: {}\n", f"trian {UNKNOWN}, got {{}}; did you mean train."),
        (
            "name: a\ntrain: {real_wieght: 0.9}\n",
            f"train.real_wieght {UNKNOWN}, got 0.9; did you mean train.real_weight.",
        ),
        ("name: a\ntrain: {on: 1}\n", f"train.1 {UNKNOWN}, got True; did you mean train.keep."),
        ("name: a\n7: b\n", f"7 {UNKNOWN}, got 7; {SEE}."),
        ("name: a\ntrain:\n", "train must be a mapping of fields, got None; correct the value."),
        ("name: a\ntrain: [1]\n", "train must be a mapping of fields, got [1]; correct the value."),
        (
            "name: a\nprepare: {val_fraction: 0}\n",
            "prepare.val_fraction must be greater than 0.0, got 0; give a share, not a percentage.",
        ),
    ],
)
def test_a_bad_file_is_refused_in_these_words(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("name: a\ntrain: [\n", "valid YAML near line 3"),
        ("name: a\ntrain:\n  seeds: {\n  width: 3\n]\n", "valid YAML near line 5"),
        ("name: a\n\ttrain: 3\n", "valid YAML near line 2"),
        ("name: !!python/name:os.system\n", "valid YAML near line 1"),
        ("name: a\0\n", "valid YAML of printable characters"),
        (b"name: \xff\n", "UTF-8 text"),
    ],
)
def test_a_file_that_is_no_yaml_is_named_with_the_line(text: str | bytes, rule: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=rf"^config must be {rule}, got '{re.escape(path)}'; "):
        load_config(path)


@pytest.mark.parametrize("missing", ["digit", "", "no/such/file.yaml", "/tmp"])
def test_a_missing_file_is_named_beside_the_presets(missing: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(missing)
    presets = ", ".join(preset_names())
    assert str(caught.value) == (
        f"config must be a preset ({presets}) or a YAML file, got {missing!r}; check the name or the path."
    )


@pytest.mark.parametrize(("text", "value"), [("train:", None), ("train: 5", 5)])
def test_an_override_into_a_section_without_fields_is_refused(text: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=f"^train must be a mapping of fields, got {value}; give it fields, or leave it out"
    ):
        load_config(write(tmp_path, f"name: a\n{text}\n"), ["train.num_steps=3"])


def test_with_overrides_names_an_unknown_key() -> None:
    with pytest.raises(
        ConfigError, match=r"train\.depth must be a field of the config, got 3; did you mean train\.\w+\."
    ):
        with_overrides(load_config("digits"), {"train.depth": 3})


def test_a_config_cannot_be_changed_in_place() -> None:
    config = load_config("digits")
    with pytest.raises(ValueError, match="frozen"):
        config.train.real_weight = 0.5
    assert config.train.real_weight == 0.8


def test_a_config_error_survives_pickling_with_all_its_parts() -> None:
    with pytest.raises(ConfigError) as caught:
        build_config({"name": "a", "train": {"real_weight": 80}})
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert str(copy) == str(caught.value)
    assert (copy.field, copy.rule, copy.value, copy.remedy) == (
        "train.real_weight",
        "in [0, 1]",
        80,
        "give a share, not a percentage",
    )


def test_whole_and_real_numbers_are_the_same_identity_however_they_are_written() -> None:
    identities = [
        load_config("digits", [f"train.learning_rate={text}"]).train.identity() for text in ("1", "1.0", "1e0", "'1'")
    ]
    assert all(identity == identities[0] for identity in identities)
    assert type(identities[0]["learning_rate"]) is float
