"""Somebody else's features and logits: read as they were written; an error for a defect names file and array."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sio_ray.errors import ConfigError, EvaluationError
from sio_ray.evaluation.given import check_detectors, load_given
from sio_ray.ood.detectors import build_detectors
from sio_ray.ood.outputs import NetworkOutputs

D, C = 5, 3

ID_SETS = {"train": 40, "val": 12, "test": 20, "id_shifted/blur": 9}
OOD_SETS = {"near/a": 7, "near/b": 8, "far/c": 6, "val_near/d": 5, "val_far/e": 4}

Arrays = dict[str, np.ndarray]


def write_npz(file: Path, arrays: Arrays) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file.with_suffix(".npz"), **arrays)


def write_lists(file: Path, arrays: Arrays) -> None:
    """Parquet as pandas writes it: lists of any length."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: list(array) for name, array in arrays.items()}), file.with_suffix(".parquet"))


def write_fixed_lists(file: Path, arrays: Arrays) -> None:
    """Parquet with lists of one length, in several row groups."""
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1]) if array.ndim == 2 else array
        for name, array in arrays.items()
    }
    pq.write_table(pa.table(columns), file.with_suffix(".parquet"), row_group_size=3)


WRITERS = {"npz": write_npz, "lists": write_lists, "fixed_lists": write_fixed_lists}


def arrays_of() -> tuple[dict[str, Arrays], Arrays]:
    """The arrays of every set, and those of the last layer."""
    rng = np.random.default_rng(0)
    layer = {"weight": rng.normal(size=(C, D)).astype("f4"), "bias": rng.normal(size=C).astype("f4")}
    sets = {}
    for name, count in (ID_SETS | OOD_SETS).items():
        features = rng.normal(size=(count, D)).astype("f4")
        labels = rng.integers(0, C, count) if name in ID_SETS else np.full(count, -1)
        logits = features @ layer["weight"].T + layer["bias"]
        sets[name] = {"features": features, "logits": logits, "labels": labels, "image_id": 100 + np.arange(count)}
    return sets, layer


@pytest.fixture
def given(tmp_path) -> Path:
    return written(tmp_path, write_npz, *arrays_of())


def written(folder: Path, write: Callable[[Path, Arrays], None], sets: dict[str, Arrays], layer: Arrays) -> Path:
    for name, arrays in sets.items():
        write(folder / name, arrays)
    np.savez(folder / "last_layer.npz", **layer)
    return folder


def change(folder: Path, name: str, **changes: np.ndarray | None) -> None:
    """Replace arrays of one file, or remove those that are None."""
    with np.load(folder / f"{name}.npz") as archive:
        arrays = dict(archive) | changes
    write_npz(folder / name, {key: array for key, array in arrays.items() if array is not None})


def error_of(folder: Path) -> str:
    with pytest.raises(EvaluationError) as error:
        load_given(str(folder))
    assert "\n" not in str(error.value)
    return str(error.value).replace(f"{folder}/", "")


def assert_holds(outputs: NetworkOutputs, arrays: Arrays) -> None:
    for name, tensor in (
        ("features", outputs.features),
        ("logits", outputs.logits),
        ("labels", outputs.labels),
        ("image_id", outputs.image_ids),
    ):
        assert tensor.dtype == (torch.int64 if arrays[name].ndim == 1 else torch.float32)
        np.testing.assert_array_equal(tensor.numpy(), arrays[name])


@pytest.mark.parametrize("writer", WRITERS)
def test_what_was_written_is_read(tmp_path, writer):
    sets, layer = arrays_of()
    read = load_given(str(written(tmp_path, WRITERS[writer], sets, layer)))
    for name in ("train", "val", "test"):
        assert_holds(getattr(read, name), sets[name])
    assert list(read.ood) == [("near", "a"), ("near", "b"), ("far", "c")]
    assert list(read.val_ood) == [("near", "d"), ("far", "e")]
    for (group, name), outputs in read.ood.items():
        assert_holds(outputs, sets[f"{group}/{name}"])
    for (group, name), outputs in read.val_ood.items():
        assert_holds(outputs, sets[f"val_{group}/{name}"])
    assert_holds(read.shifted["blur"], sets["id_shifted/blur"])
    assert read.last_layer is not None
    np.testing.assert_array_equal(read.last_layer.weight.numpy(), layer["weight"])
    np.testing.assert_array_equal(read.last_layer.bias.numpy(), layer["bias"])


def test_what_can_be_made_may_be_left_out(given):
    full = load_given(str(given))
    for name in ID_SETS | OOD_SETS:
        change(given, name, logits=None, image_id=None, **({"labels": None} if name in OOD_SETS else {}))
    made = load_given(str(given))
    torch.testing.assert_close(made.test.logits, full.test.logits)
    assert made.test.image_ids.tolist() == list(range(20))
    assert made.ood["near", "a"].labels.tolist() == [-1] * 7


def test_half_and_double_precision_and_small_integers_are_taken(given):
    sets, layer = arrays_of()
    for name, arrays in sets.items():
        half = {key: array.astype("f2") for key, array in arrays.items() if array.ndim == 2}
        write_npz(given / name, arrays | half | {"labels": arrays["labels"].astype("i1")})
    np.savez(given / "last_layer.npz", **{key: array.astype(">f8") for key, array in layer.items()})
    read = load_given(str(given))
    assert read.train.features.dtype == read.last_layer.weight.dtype == torch.float32
    assert read.train.labels.dtype == torch.int64
    np.testing.assert_array_equal(read.train.features.numpy(), sets["train"]["features"].astype("f2"))


def test_columns_that_nobody_needs_are_not_read(given):
    write_lists(given / "near" / "z", {**arrays_of()[0]["near/a"], "path": np.array(["x"] * 7)})
    change(given, "test", note=np.array("from a friend"))
    assert ("near", "z") in load_given(str(given)).ood
    (given / "README.txt").write_text("mine")
    assert len(load_given(str(given)).ood) == 4


def test_detectors_run_on_them_and_those_that_need_a_network_are_named(given):
    sets = load_given(str(given))
    detector = build_detectors(["vim"], {"vim": {"dim": 2}})[0].fit(sets.train, sets.val, sets.last_layer)
    assert detector.score(sets.test).shape == (20,)
    detectors = build_detectors(["msp", "odin", "vim", "gram"])
    with pytest.raises(ConfigError) as error:
        check_detectors(detectors, has_last_layer=True)
    assert str(error.value) == (
        "evaluate.detectors must be of features and logits alone with evaluate.outputs, got 'odin, gram'; leave these "
        "out, or give the network as evaluate.checkpoints."
    )
    with pytest.raises(ConfigError) as error:
        check_detectors(build_detectors(["msp", "vim", "dice"]), has_last_layer=False)
    assert str(error.value) == (
        "evaluate.detectors must be without a last layer where evaluate.outputs has no last_layer.npz, got "
        "'vim, dice'; add it, or leave these out."
    )
    check_detectors(build_detectors(["msp", "knn"]), has_last_layer=False)
    check_detectors(build_detectors(["vim"]), has_last_layer=True)


def test_without_a_last_layer_there_is_none_and_logits_are_needed(given):
    (given / "last_layer.npz").unlink()
    assert load_given(str(given)).last_layer is None
    change(given, "val", logits=None)
    assert error_of(given) == "val.npz: it must hold logits, got features, labels, image_id; add that array."


BROKEN = {
    "no features": (
        {"train": {"features": None, "feats": np.zeros((40, D))}},
        "train.npz: it must hold features, got logits, labels, image_id, feats; add that array.",
    ),
    "no labels of an ID set": (
        {"val": {"labels": None}},
        "val.npz: it must hold labels, got features, logits, image_id; add that array.",
    ),
    "one dimension too many": (
        {"test": {"features": np.zeros((20, D, 1), "f4")}},
        "test.npz: features must have 2 dimension(s), none empty, got shape (20, 5, 1); give one row per image.",
    ),
    "no image": (
        {"near/a": {"features": np.zeros((0, D), "f4")}},
        "near/a.npz: features must have 2 dimension(s), none empty, got shape (0, 5); give one row per image.",
    ),
    "other rows": (
        {"far/c": {"logits": np.zeros((7, C), "f4")}},
        "far/c.npz: logits must have 2 dimension(s), 6 rows, got shape (7, 3); give one row per image.",
    ),
    "rows of labels": (
        {"far/c": {"labels": np.full(5, -1)}},
        "far/c.npz: labels must have 1 dimension(s), 6 rows, got shape (5,); give one row per image.",
    ),
    "integers": (
        {"train": {"features": np.zeros((40, D), "i4")}},
        "train.npz: features must be of floating point numbers, got int32; convert it.",
    ),
    "labels as numbers": (
        {"train": {"labels": np.zeros(40)}},
        "train.npz: labels must be of integers, got float64; convert it.",
    ),
    "a class too many": (
        {"train": {"labels": np.r_[np.zeros(39, int), C]}},
        "train.npz: labels must be in [0, 3) for ID, got 3 in row 39; give the class of each image.",
    ),
    "OOD among ID": (
        {"test": {"labels": np.r_[0, -1, np.zeros(18, int)]}},
        "test.npz: labels must be in [0, 3) for ID, got -1 in row 1; give the class of each image.",
    ),
    "ID among OOD": (
        {"val_near/d": {"labels": np.array([-1, -1, 0, -1, -1])}},
        "val_near/d.npz: labels must be -1 for OOD, got 0 in row 2; leave them out.",
    ),
    "an image twice": (
        {"far/c": {"image_id": np.array([1, 2, 3, 4, 5, 1])}},
        "far/c.npz: image_id must be unique, got some twice; number the images, or leave it out.",
    ),
    "NaN": (
        {"near/b": {"features": np.where(np.arange(8)[:, None] == 6, np.nan, np.zeros((8, D))).astype("f4")}},
        "near/b.npz: features must be finite in float32, got NaN or infinity in row 6; look at that image.",
    ),
    "infinity": (
        {"val": {"logits": np.where(np.arange(12)[:, None] == 0, -np.inf, np.zeros((12, C))).astype("f4")}},
        "val.npz: logits must be finite in float32, got NaN or infinity in row 0; look at that image.",
    ),
    "what float32 cannot hold": (
        {"near/b": {"features": np.where(np.arange(8)[:, None] == 6, 1e39, np.zeros((8, D)))}},
        "near/b.npz: features must be finite in float32, got NaN or infinity in row 6; look at that image.",
    ),
    "features of another network": (
        {"far/c": {"features": np.zeros((6, D + 1), "f4")}},
        "far/c.npz: features must have the 5 columns of last_layer.npz, got 6; give the layer that reads these "
        "features.",
    ),
    "logits of another network": (
        {"far/c": {"logits": np.zeros((6, C + 1), "f4")}},
        "far/c.npz: logits must have the 3 columns of last_layer.npz, got 4; give outputs of one network.",
    ),
    "a bias of another layer": (
        {"last_layer": {"bias": np.zeros(C + 1, "f4")}},
        "last_layer.npz: bias must have 1 dimension(s), 3 rows, got shape (4,); give one row per image.",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_fit_is_named(given, case):
    changes, expected = BROKEN[case]
    for name, arrays in changes.items():
        change(given, name, **arrays)
    assert error_of(given) == expected


def test_a_last_layer_that_does_not_make_the_logits_is_named(given):
    change(given, "last_layer", bias=arrays_of()[1]["bias"] + 0.5)
    assert error_of(given) == (
        "far/c.npz: logits must be features @ weight.T + bias of last_layer.npz, got some 0.5 apart; give the layer "
        "that made them, or delete last_layer.npz."
    )


def test_without_a_last_layer_sets_are_compared_with_each_other(given):
    (given / "last_layer.npz").unlink()
    change(given, "far/c", features=np.zeros((6, D + 1), "f4"))
    assert error_of(given) == (
        "far/c.npz has 6 features and 3 logits per image, train.npz 5 and 3; give outputs of one network."
    )


def test_files_that_are_missing_or_unknown_are_named(given):
    (given / "val.npz").unlink()
    for file in (*given.glob("near/*"), *given.glob("far/*")):
        file.unlink()
    assert error_of(given) == (f"{given} holds no val, near/SET or far/SET (.npz or .parquet); add what is missing.")
    known = "train, val, test, near/SET, far/SET, val_near/SET, val_far/SET, id_shifted/SET, last_layer.npz"
    write_npz(given / "tests", {})
    assert error_of(given) == f"tests.npz must be named one of {known}; did you mean test."
    (given / "tests.npz").unlink()
    write_npz(given / "near", {})
    assert error_of(given).startswith("near.npz must be named one of ")
    (given / "near.npz").unlink()
    write_npz(given / "far" / "deep" / "set", {})
    assert error_of(given).startswith("far/deep/set.npz must be named one of ")


def test_a_set_in_two_files_is_named(given):
    write_lists(given / "train", arrays_of()[0]["train"])
    assert error_of(given) == "train.parquet is there as train.npz too; delete one of them."


def test_broken_files_are_named(given, tmp_path):
    for name, content in (("a", b""), ("b", b"<html>" * 100)):
        (given / "near" / f"{name}.npz").write_bytes(content)
        assert error_of(given).startswith(f"near/{name}.npz: it cannot be read (")
        (given / "near" / f"{name}.npz").unlink()
    (given / "near" / "p.parquet").write_bytes(b"<html>" * 100)
    assert error_of(given).startswith("near/p.parquet: it cannot be read (")


def test_nothing_is_unpickled(given):
    change(given, "test", features=np.array([{"a": 1}] * 20, dtype=object))
    message = error_of(given)
    assert message.startswith("test.npz: it cannot be read (Object arrays cannot be loaded when allow_pickle=False")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([[1.0], [1.0, 2.0]], "features has rows of several lengths; give as many values per image."),
        ([[1.0, 2.0], None], "features has rows of several lengths; give as many values per image."),
        ([[1.0, 2.0], [None, 2.0]], "features has values that are missing; give a number for each."),
    ],
)
def test_rows_of_parquet_that_are_no_matrix_are_named(given, rows, problem):
    table = pa.table({"features": pa.array(rows, pa.list_(pa.float32())), "logits": [[0.0] * C] * 2})
    pq.write_table(table, given / "near" / "z.parquet")
    assert error_of(given) == f"near/z.parquet: {problem}"


def test_labels_that_are_missing_are_named(given):
    table = pa.table({"features": [[0.0] * D] * 2, "labels": pa.array([None, -1], pa.int64())})
    pq.write_table(table, given / "near" / "z.parquet")
    assert error_of(given) == "near/z.parquet: labels has values that are missing; give a number for each."
