"""Principal axes against NumPy's singular values, for any blocks; samples are seeded and stand where features do."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sio_ray.errors import EvaluationError
from sio_ray.ood.outputs import NetworkOutputs
from sio_ray.ood.projection import choose_rows, fit_projection, from_arrow, project_sample, to_arrow


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    # A large mean, as ReLU features have: a covariance that is not centred first would be lost in it.
    return torch.from_numpy((rng.normal(size=(500, 12)) * np.geomspace(5, 0.1, 12) + 1000).astype(np.float32))


@pytest.fixture(scope="module")
def projection(features):
    return fit_projection(features)


def test_axes_and_shares_are_those_of_the_singular_value_decomposition(features, projection):
    centred = features.numpy().astype(np.float64)
    centred -= centred.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    shares = singular**2 / (singular**2).sum()
    assert projection.shares == pytest.approx(shares[:2])
    cosines = np.abs(np.einsum("dk,kd->k", projection.axes.numpy(), axes[:2]))
    assert cosines == pytest.approx([1.0, 1.0])
    placed = projection(features).numpy()
    assert placed.var(axis=0) / centred.var(axis=0).sum() == pytest.approx(shares[:2])
    assert placed.mean(axis=0) == pytest.approx([0, 0], abs=1e-9)


@pytest.mark.parametrize("block_size", [1, 7, 499, 500, 10_000])
def test_blocks_do_not_change_the_axes(features, projection, block_size):
    other = fit_projection(features, block_size=block_size)
    assert torch.allclose(other.axes, projection.axes, atol=1e-9)
    assert other.shares == pytest.approx(projection.shares)


def test_the_picture_does_not_flip(features, projection):
    largest = projection.axes.abs().argmax(0)
    assert (projection.axes.gather(0, largest[None]) > 0).all()
    shuffled = fit_projection(features[torch.randperm(500, generator=torch.Generator().manual_seed(0))])
    assert torch.allclose(shuffled.axes, projection.axes, atol=1e-9)


def test_features_are_never_written_to(features):
    for dtype in (torch.float32, torch.float64):
        given = features.to(dtype)
        before = given.clone()
        fit_projection(given, block_size=64)(given)
        assert torch.equal(given, before)


def test_equal_features_have_no_variance_to_share():
    assert fit_projection(torch.ones(5, 3)).shares == (0.0, 0.0)


def test_one_feature_is_an_error():
    with pytest.raises(
        EvaluationError, match=r"features must have at least 2 columns, got 1; a picture needs two axes"
    ):
        fit_projection(torch.ones(5, 1))


def test_a_sample_is_without_repeats_and_the_same_for_the_same_seed():
    rows = choose_rows(100, 30, seed=1)
    assert len(set(rows.tolist())) == 30
    assert torch.equal(rows, choose_rows(100, 30, seed=1))
    assert not torch.equal(rows, choose_rows(100, 30, seed=2))
    assert sorted(choose_rows(20, 30, seed=0).tolist()) == list(range(20))


def sample(projection, features, **more):
    ids = torch.arange(500)
    return project_sample(projection, NetworkOutputs(features, features, ids % 3, ids * 10), **more)


def test_every_row_of_a_sample_stands_where_its_image_does(features, projection):
    rows = sample(projection, features, group="near", image_set="a", limit=40, seed=3)
    assert list(rows.columns) == ["group", "image_set", "image_id", "label", "x", "y"]
    assert len(rows) == 40
    numbers = rows["image_id"].to_numpy() // 10
    assert (rows["label"] == numbers % 3).all()
    assert np.allclose(rows[["x", "y"]], projection(features[numbers]).numpy())


def test_samples_of_all_runs_survive_parquet(features, projection, tmp_path):
    parts = [sample(projection, features, group=group, image_set="a", limit=20) for group in ("near", "far")]
    to_write = to_arrow([("baseline", 3, (0.5, 0.25), parts[0]), ("sio", 4, projection.shares, parts[1])])
    pq.write_table(to_write, tmp_path / "projection.parquet")
    rows, shares = from_arrow(pq.read_table(tmp_path / "projection.parquet"))
    assert shares == {("baseline", 3): (0.5, 0.25), ("sio", 4): projection.shares}
    assert rows.columns[:2].tolist() == ["arm", "seed"]
    for part, (arm, seed) in zip(parts, shares, strict=True):
        found = rows[(rows["arm"] == arm) & (rows["seed"] == seed)].drop(columns=["arm", "seed"])
        assert (found.reset_index(drop=True) == part).all(axis=None)


def test_a_table_without_shares_is_read_too(features, projection):
    table = to_arrow([("sio", 0, (0.5, 0.2), sample(projection, features, group="id", image_set="test"))])
    rows, shares = from_arrow(table.replace_schema_metadata(None))
    assert shares == {}
    assert len(rows) == 500
