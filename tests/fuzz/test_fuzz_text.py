"""Whatever a config, a search space, a record or a list of files says, its reader understands it or names it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from damage import broken, broken_json, fuzz, json_values
from hypothesis import example, given
from hypothesis import strategies as st

from sio_ray.config import Config, load_config, with_overrides
from sio_ray.config.loading import dotted_keys
from sio_ray.errors import ConfigError, SioRayError
from sio_ray.generate.generator import find_generator
from sio_ray.generate.notes import NOTES_FOLDER, DrawnShard, survey, write_note
from sio_ray.generate.plan import Plan
from sio_ray.imageset import ShardEntry
from sio_ray.imageset.storage import Folder
from sio_ray.search.space import read_space
from sio_ray.stages.layout import run_order, train_runs
from sio_ray.stages.record import RECORD_NAME, StageRecord, read_record
from sio_ray.stages.report_inputs import source_in


@contextlib.contextmanager
def only_our_errors() -> Iterator[None]:
    with contextlib.suppress(SioRayError):
        yield


DIGITS = load_config("digits")
VALUES = DIGITS.model_dump(mode="json")

#: Ten lists of ten, of ten, ...: a billion values in 200 characters.
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def use(config: Config) -> None:
    """What every command does with a config first."""
    run_order(config)
    train_runs(config)


@fuzz
@given(text=st.text() | broken(yaml.safe_dump(VALUES).encode()))
@example(text=LAUGHS)
@example(text="name: &a [*a]")
@example(text="name: " + "[" * 2000)
@example(text="name: 2023-99-99")
@example(text="!!python/object/apply:os.system [ls]")
def test_a_config_of_any_text(text: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with only_our_errors():
        use(load_config(str(path)))


@fuzz
@given(values=broken_json(VALUES))
def test_a_config_of_any_values(values: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    with only_our_errors():
        use(load_config(str(path)))


@fuzz
@given(key=st.sampled_from(dotted_keys()) | st.text(max_size=8), text=st.text(max_size=10) | json_values.map(str))
def test_an_override_of_any_text(key: str, text: str) -> None:
    with only_our_errors():
        load_config("digits", [f"{key}={text}"])


@fuzz
@given(key=st.sampled_from(dotted_keys()), value=json_values)
def test_a_change_to_any_value(key: str, value: Any) -> None:
    with only_our_errors():
        use(with_overrides(DIGITS, {key: value}))


def test_few_characters_cannot_stand_for_many_values(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(LAUGHS)
    with pytest.raises(ConfigError, match="valid YAML that stands for at most 100,000 values"):
        load_config(str(path))


SPACE = b'"""A space."""\n\nSPACE = {"train.real_weight": ("uniform", 0.5, 1.0), "train.width": ("choice", [8, 16])}\n'


@fuzz
@given(text=st.text() | broken(SPACE) | json_values.map(lambda value: f"SPACE = {value!r}"))
@example(text='SPACE = {"a": ("choice", [' + "[" * 90 + "]" * 90 + "])}")
@example(text="SPACE = __import__('os').system('ls')")
@example(text="SPACE = " + "-" * 100_000 + "1")
def test_a_search_space_of_any_text(text: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "space.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    with only_our_errors():
        read_space(path)


RECORD = json.loads(
    StageRecord(
        stage="generate",
        identity={"a": 1},
        config=VALUES,
        versions={"sio_ray": "0"},
        machine="a machine",
        git_commit=None,
        finished="2026-01-01T00:00:00+00:00",
        wall_s=1.0,
        outputs=("x",),
        result={"curve": []},
    ).model_dump_json()
)


@fuzz
@given(data=broken_json(RECORD).map(json.dumps).map(str.encode) | broken(json.dumps(RECORD).encode()))
def test_a_record_of_any_values(data: bytes, tmp_path: Path) -> None:
    (tmp_path / RECORD_NAME).write_bytes(data)
    with only_our_errors():
        read_record(tmp_path)


PLAN = Plan(num_images=8, class_weights=(1, 1), images_per_shard=4, sampler_batch_size=4, base_seed=0)
NOTE = DrawnShard(shard_id=1, entry=ShardEntry.of(PLAN.shard_name(1), 4, b"shard"))


@fuzz
@given(data=broken_json(json.loads(NOTE.model_dump_json())).map(json.dumps).map(str.encode) | st.binary(max_size=50))
def test_a_note_of_any_values_is_of_its_shard_or_none(data: bytes, tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write_bytes(PLAN.shard_name(1), b"shard")
    write_note(folder, NOTE)
    (tmp_path / NOTES_FOLDER / f"{PLAN.shard_name(1)}.json").write_bytes(data)
    found = survey(folder, PLAN)
    assert {**found.noted}.keys() | {*found.unnoted} == {1}
    assert found.missing == [0]


INDEX = {
    "_class_name": "ClassConditionalEDMPipeline",
    "_diffusers_version": "0.40.0",
    "class_names": ["a", "b"],
    "unet": ["diffusers", "UNet2DModel"],
    "scheduler": ["diffusers", "EDMEulerScheduler"],
}
UNET = {"_class_name": "UNet2DModel", "num_class_embeds": 3, "in_channels": 1, "sample_size": 8}


@fuzz
@given(st.data())
def test_a_generator_of_any_values(tmp_path: Path, data: st.DataObject) -> None:
    files = {"model_index.json": INDEX, "unet/config.json": UNET, "scheduler/scheduler_config.json": {"a": 1}}
    chosen = data.draw(st.sampled_from(sorted(files)))
    for name, values in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(data.draw(broken_json(values)) if name == chosen else values))
    (tmp_path / "unet" / "model.safetensors").write_bytes(b"")
    with only_our_errors():
        find_generator(str(tmp_path))


METRICS = {
    "metrics": [
        {
            **{"arm": "sio", "seed": 0, "detector": "energy", "group": "near", "ood_set": "x"},
            **dict.fromkeys(("auroc", "fpr_at_95_tpr", "aupr_in", "aupr_out"), 0.5),
        }
    ]
}


@fuzz
@given(data=broken_json(METRICS).map(json.dumps).map(str.encode) | st.binary(max_size=50))
def test_metrics_of_any_values(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_bytes(data)
    (tmp_path / "scores.parquet").write_bytes(b"")
    with only_our_errors():
        source_in(tmp_path).metrics()
