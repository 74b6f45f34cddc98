"""A secret in a URI is in no message, record or saved config; a URI without one stays as it is."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from sio_ray.config import load_config, to_yaml
from sio_ray.errors import ConfigError, ImageSetError, StageError
from sio_ray.imageset.storage import Folder
from sio_ray.redaction import redact, redact_values
from sio_ray.stages.begun import settings_of
from sio_ray.stages.layout import evaluate_place, generate_place, synthetic_set_uri, train_runs
from sio_ray.stages.record import RECORD_NAME, read_record, run_once

SECRET = "hunter2/+x"
URIS = [
    f"s3://KEY:{SECRET}@bucket/set",
    f"s3://bucket/set?endpoint_override=host:9000&secret_key={SECRET}",
    f"abfs://container@account/set?sas_token={SECRET}&x=1",
    f"ftp://user:{SECRET}@host:21/set",
    f"https://{SECRET.replace('/', '')}@host/set",
    f"sftp://host/set?password={SECRET}",
    f"sftp://host/set?auth={SECRET}",
    "sftp://alice:p@ss@hunter2@host/set",
    "sftp://alice:p@hunter2@host:22/set@2",
]


@pytest.mark.parametrize("uri", URIS)
def test_no_secret_is_left(uri: str) -> None:
    for text in (redact(uri), repr(Folder(uri)), str(ImageSetError(f"{uri} is bad")), str(StageError(f"at {uri}."))):
        assert "hunter2" not in text
        assert "***" in text
    assert "hunter2" not in str(ConfigError("generate.output", "a folder", uri, f"not {uri}"))
    assert "hunter2" not in json.dumps(redact_values({"a": [uri], "b": {"c": (uri, 1, None)}}))


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/set?endpoint_override=host:9000&scheme=http",
        "abfs://container@account.dfs.core.windows.net/set",
        "http://127.0.0.1:8265/path@2",
        "gs://bucket/a/b",
        "/local/a:b@c?key=x",
        "at http://127.0.0.1:8265 or 'http://127.0.0.1:8265' by a@b.c",
        "write to a@b.c, or see https://docs.ray.io/en/latest",
    ],
)
def test_what_holds_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_errors_keep_what_they_were_made_of_when_they_leave_a_worker() -> None:
    error = ConfigError("generate.output", "a folder", URIS[0], "mend it")
    assert pickle.loads(pickle.dumps(error)).value == URIS[0]  # noqa: S301 - our own


@pytest.mark.parametrize("uri", URIS)
def test_records_and_saved_configs_hold_none_and_the_output_is_the_same_after_the_key_is_rotated(
    uri: str, tmp_path: Path
) -> None:
    fields = [f"output_dir={tmp_path}", "generate.num_classes=2", "generate.num_images=8", "generate.image_size_px=8"]
    config, rotated = (
        load_config("digits", [*fields, f"generate.output={given}", f"train.outlier_set={given}"])
        for given in (uri, uri.replace("hunter2", "hunter3"))
    )
    assert "hunter" not in to_yaml(config)
    assert generate_place(config).folder == generate_place(rotated).folder
    assert evaluate_place(config).folder == evaluate_place(rotated).folder
    run = train_runs(config)[0]
    assert "hunter" not in json.dumps(settings_of(config, run))
    assert synthetic_set_uri(config) == uri  # to be opened with
    place = generate_place(config)
    run_once("generate", place.folder, place.identity, config, lambda folder: {"images": uri})
    assert "hunter" not in (place.folder / RECORD_NAME).read_text()
    assert read_record(place.folder) is not None


def test_a_uri_whose_secret_was_left_out_says_so() -> None:
    with pytest.raises(ImageSetError, match=r"has \*\*\* where a secret was, as none is ever saved; give the credent"):
        Folder("s3://KEY:***@bucket/set").exists()
