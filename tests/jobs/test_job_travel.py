"""A config that goes to a cluster names what all nodes find and holds no secret; every path is known."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from sio_ray.config import Config, dotted_keys, load_config
from sio_ray.config.places import places
from sio_ray.config.section import extra_of
from sio_ray.errors import ConfigError
from sio_ray.jobs.travel import check_travels

#: One value of each field that is, or may be, a path.
EVERYWHERE = {
    "output_dir": "/shared/runs",
    "prepare.root": "/shared/data",
    "generate.generator": "/shared/model",
    "generate.output": "s3://bucket/set",
    "generate.curation.classifier": "/shared/judge",
    "train.synthetic_set": "/shared/synthetic",
    "train.outlier_set": "/shared/outliers",
    "train.mixing_set": "gs://bucket/mixing",
    "tune.space": "tune_spaces/weight_grid.py",
}


def load(**changes: str) -> Config:
    return load_config("digits", [f"{key}={value}" for key, value in {"output_dir": "/shared/runs", **changes}.items()])


def fields(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, type[BaseModel], str]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, model, name


def described(model: type[BaseModel], name: str) -> str:
    """What the docstring of a section says of a field."""
    (text,) = re.findall(rf"^    {name}: (.*?)(?=^    \w+: |\Z)", inspect.getdoc(model) or "", re.MULTILINE | re.DOTALL)
    return text


def test_every_field_that_is_described_as_a_path_is_one_and_no_other() -> None:
    assert {key for key, _, _ in fields()} == set(dotted_keys())
    found = set()
    for key, model, name in fields():
        field = model.model_fields[name]
        kinds = {field.annotation, *get_args(field.annotation)}
        says_so = Path in kinds or extra_of(field).get("place")
        texts = "str" in str(field.annotation)
        words = re.search(r"\b(path|URI|folders?|image set)\b", described(model, name))
        assert bool(says_so) == bool(Path in kinds or (texts and words)), key
        found |= {key} if says_so else set()
    assert found == {*EVERYWHERE, "evaluate.checkpoints", "evaluate.outputs"}


def test_all_that_is_given_is_found() -> None:
    assert dict(places(load(**EVERYWHERE))) == EVERYWHERE
    assert dict(places(load())) == {"output_dir": "/shared/runs", "tune.space": "tune_spaces/weight_and_ratio.py"}
    given = load(**{"evaluate.outputs": "{sio: [/a, /b], baseline: [/c]}"})
    assert [item for item in places(given) if item[0].startswith("evaluate")] == [
        ("evaluate.outputs.sio", "/a"),
        ("evaluate.outputs.sio", "/b"),
        ("evaluate.outputs.baseline", "/c"),
    ]


@pytest.mark.parametrize("field", [field for field in EVERYWHERE if field != "tune.space"])
def test_a_relative_path_is_refused_wherever_it_stands(field: str) -> None:
    check_travels(load(**EVERYWHERE))
    example = "output_dir=/shared/runs" if field == "output_dir" else f"{field}=/shared/..."
    for relative in ("some/thing/here", "./here"):
        with pytest.raises(ConfigError) as error:
            check_travels(load(**{**EVERYWHERE, field: relative}))
        shown = str(Path(relative)) if field in ("output_dir", "prepare.root") or "classifier" in field else relative
        assert str(error.value) == (
            f"{field} must be an absolute path or a URI for a job, got {shown!r}; "
            f"set e.g. {example}, where all nodes find it."
        )


@pytest.mark.parametrize(
    ("checkpoints", "refused"),
    [
        ("/a+/b", False),
        ("/a+b", True),
        ("openood:/a/best.ckpt?network=resnet18_32px", False),
        ("openood:best.ckpt?normalisation=cifar10", True),
        ("torchvision:resnet18:IMAGENET1K_V1", False),
        ("timm:resnet18?normalisation=imagenet", False),
        ("timm:resnet18@/a/weights.pt", False),
        ("timm:resnet18@weights.pt+timm:resnet18", True),
    ],
)
def test_references_to_networks_are_read_as_evaluate_does(checkpoints: str, refused: bool) -> None:
    config = load(**{"evaluate.checkpoints": f"{{sio: ['{checkpoints}']}}"})
    if not refused:
        check_travels(config)
        return
    with pytest.raises(ConfigError, match=r"^evaluate\.checkpoints\.sio must be an absolute path or a URI"):
        check_travels(config)


def test_a_hub_id_travels_unless_a_folder_here_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("facebook/DiT-XL-2-256", "facebook/DiT-XL-2-256@refs/pr/1"):
        check_travels(load(**{"generate.generator": name}))
    (tmp_path / "runs" / "model").mkdir(parents=True)
    check_travels(load(**{"generate.generator": "runs/other"}))
    with pytest.raises(ConfigError, match=r"^generate\.generator must be an absolute path or a URI"):
        check_travels(load(**{"generate.generator": "runs/model"}))


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("generate.output", "s3://KEY:hushhush@bucket/set", "s3://KEY:***@bucket/set"),
        ("train.synthetic_set", "abfs://c@account/set?sig=hushhush", "abfs://c@account/set?sig=***"),
        ("evaluate.outputs", "{sio: ['https://hushhush@host/set']}", "https://***@host/set"),
        ("report.title", "'see https://me:hushhush@host'", "see https://me:***@host"),
        ("generate.output", "s3://KEY:***@bucket/set", "s3://KEY:***@bucket/set"),
    ],
)
def test_a_secret_stays_here_and_is_not_said(field: str, value: str, shown: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_travels(load(**{field: value}))
    assert str(error.value) == (
        f"{field}{'.sio' if field == 'evaluate.outputs' else ''} must be free of a URI's secret for a job, as it would "
        f"lie on the disks of the cluster, got {shown!r}; give the secret to the nodes in their environment, or to "
        "this job by --env NAME."
    )
