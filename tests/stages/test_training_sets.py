"""Sets that do not fit each other are refused before any work starts, in one line that says what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from sio_ray.config import Config, load_config
from sio_ray.errors import ConfigError, ImageSetError, StageError
from sio_ray.imageset import ImageSet, ImageSetInfo, write_image_set
from sio_ray.imageset.exchange import export_images, import_images
from sio_ray.stages.layout import generate_place, synthetic_set_uri, train_runs
from sio_ray.stages.prepare import prepare
from sio_ray.stages.record import run_once
from sio_ray.stages.training_sets import TrainingSets, open_training_sets, refuse_another_set, synthetic_images

NAMES = ("0", "1", "2", "3", "4", "5")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    prepare(load(folder))
    return folder


def load(folder: Path, *overrides: str) -> Config:
    small = ("prepare.images_per_ood_set=4", "prepare.num_outliers=4", f"output_dir={folder}")
    return load_config("digits", [*small, *overrides])


def write(
    folder: Path, *, names: tuple[str, ...] = NAMES, side_px: int = 8, channels: int = 1, num_images: int = 12
) -> str:
    """A set of black pictures; without names, of no class."""
    info = ImageSetInfo(class_names=names, height_px=side_px, width_px=side_px, channels=channels)
    labels = np.arange(num_images) % len(names) if names else np.full(num_images, -1)
    write_image_set(folder, info, np.zeros((num_images, *info.image_shape), dtype=np.uint8), labels)
    return str(folder)


def open_with(prepared: Path, *overrides: str) -> TrainingSets:
    return open_training_sets(load(prepared, *overrides), "train", with_synthetic=True)


def test_sets_that_fit_are_opened(prepared: Path, tmp_path: Path) -> None:
    synthetic = write(tmp_path / "set")
    sets = open_with(prepared, f"train.synthetic_set={synthetic}")
    assert sets.sources("sio") == {"real": (sets.real.uri, None), "synthetic": (synthetic, 12)}
    assert sets.sources("baseline") == {"real": (sets.real.uri, None)}
    outliers = write(tmp_path / "outliers", names=())
    for given, uri in ((f"train.outlier_set={outliers}", outliers), ("train.seeds=[1]", None)):
        sets = open_with(prepared, f"train.synthetic_set={synthetic}", "train.algorithm=outlier_exposure", given)
        found, _ = sets.sources("baseline")["outliers"]
        assert found == (uri or ImageSet(Path(sets.real.uri).parents[1] / "outlier_exposure").uri)


def test_a_set_that_generate_did_not_draw_for_this_config_is_refused(prepared: Path, tmp_path: Path) -> None:
    config = load(prepared, f"generate.output={tmp_path / 'set'}")
    place, folder = generate_place(config), Path(synthetic_set_uri(config))
    write(folder)
    drawn = {"content_id": ImageSet(folder).manifest.content_id}
    run_once("generate", place.folder, place.identity, config, lambda _: drawn)
    sets = open_training_sets(config, "train", with_synthetic=True)
    assert sets.sources("sio")["synthetic"] == (str(folder), 12)
    shutil.rmtree(folder)
    write(folder, num_images=18)
    with pytest.raises(StageError) as error:
        open_training_sets(config, "train", with_synthetic=True)
    assert str(error.value) == (
        f"train needs the set that generate drew for this config, and {folder} holds another one by now; "
        "run `sio-ray generate` with the same config, which says what has changed."
    )


def test_classes_that_differ_are_shown_side_by_side(prepared: Path, tmp_path: Path) -> None:
    names = ("0", "1", "2", "3", "5", "4")
    synthetic = write(tmp_path / "set", names=names)
    with pytest.raises(ImageSetError) as error:
        open_with(prepared, f"train.synthetic_set={synthetic}")
    assert str(error.value) == (
        f"classes of {ImageSet(synthetic)} are {list(names)}, of the real set {list(NAMES)}; "
        "give a synthetic set with the same classes in the same order."
    )


@pytest.mark.parametrize(("change", "shape"), [({"side_px": 16}, (1, 16, 16)), ({"channels": 3}, (3, 8, 8))])
def test_pictures_that_differ_in_size_or_channels_are_named(
    prepared: Path, tmp_path: Path, change: dict[str, int], shape: tuple[int, ...]
) -> None:
    fitting, other = write(tmp_path / "fitting"), write(tmp_path / "other", **change)
    outliers = write(tmp_path / "outliers", names=(), **change)
    for overrides, uri, remedy in (
        ((f"train.synthetic_set={other}",), other, "draw or import the synthetic set at the size of the real one"),
        (
            (
                f"train.synthetic_set={fitting}",
                "train.algorithm=outlier_exposure",
                f"train.outlier_set={outliers}",
            ),
            outliers,
            f"bring {ImageSet(outliers)} to the size of the real set",
        ),
    ):
        with pytest.raises(ImageSetError) as error:
            open_with(prepared, *overrides)
        assert str(error.value) == (
            f"pictures of {ImageSet(uri)} are {shape} (channels, height, width), real ones are (1, 8, 8); {remedy}."
        )


def test_a_ratio_that_the_set_cannot_give_is_refused_with_the_largest_that_it_can(
    prepared: Path, tmp_path: Path
) -> None:
    synthetic = write(tmp_path / "set")
    num_real = len(open_with(prepared, f"train.synthetic_set={synthetic}").real)
    for field, value, rule, remedy in (
        (
            "train.synthetic_ratio",
            0.5,
            f"at most {12 / num_real:.4g} (12 images in {ImageSet(synthetic)})",
            "give a set with more, or lower it",
        ),
        (
            "train.synthetic_ratio",
            0.0001,
            "greater than 0 while train.real_batch_share is below 1",
            "raise it, or train with train.arms=[baseline]",
        ),
    ):
        with pytest.raises(ConfigError) as error:
            open_with(prepared, f"train.synthetic_set={synthetic}", f"{field}={value}")
        assert str(error.value) == f"{field} must be {rule}, got {value}; {remedy}."
    assert open_with(prepared, f"train.synthetic_set={synthetic}", f"train.synthetic_ratio={6 / num_real}").sources(
        "sio"
    )["synthetic"] == (synthetic, 6)


def write_by_class(folder: Path, *, num_per_class: int = 20) -> str:
    """A set whose images come class by class, as somebody's files may."""
    info = ImageSetInfo(class_names=NAMES, height_px=8, width_px=8, channels=1)
    labels = np.repeat(np.arange(len(NAMES)), num_per_class)
    write_image_set(
        folder, info, np.zeros((len(labels), *info.image_shape), dtype=np.uint8), labels, images_per_shard=7
    )
    return str(folder)


def test_a_part_of_a_set_that_is_in_the_order_of_its_classes_is_refused(prepared: Path, tmp_path: Path) -> None:
    given = f"train.synthetic_set={write_by_class(tmp_path / 'set')}"
    num_real = len(open_with(prepared, given).real)
    for part in (f"train.synthetic_ratio={30 / num_real}", f"train.synthetic_ratio_ramp={{start: {30 / num_real}}}"):
        with pytest.raises(ConfigError) as error:
            open_with(prepared, given, part)
        assert str(error.value) == (
            "train.synthetic_set must be of mixed classes where a ratio takes a part of it (its first 30 images hold "
            f"0 of class 2, 0 of class 3), got '{tmp_path}/set'; leave out train.synthetic_ratio, or import the set "
            "from folders, which mixes them."
        )
    assert open_with(prepared, given, f"train.synthetic_ratio={120 / num_real}").num_synthetic == 120


def test_an_import_from_folders_has_its_classes_mixed(prepared: Path, tmp_path: Path) -> None:
    export_images("image-folder", write_by_class(tmp_path / "set"), tmp_path / "pictures")
    (tmp_path / "pictures/5/000000119.png").unlink()
    import_images("image-folder", str(tmp_path / "pictures"), str(tmp_path / "mixed"))
    mixed = ImageSet(tmp_path / "mixed")
    for num_images in (6, 30, 71, 119):
        assert np.ptp(np.bincount(mixed.read_labels(num_images), minlength=6)) <= 1
    given = f"train.synthetic_set={mixed.uri}"
    num_real = len(open_with(prepared, given).real)
    assert open_with(prepared, given, f"train.synthetic_ratio={30 / num_real}").num_synthetic == 30


def test_networks_that_were_trained_on_another_set_at_the_same_path_are_not_taken(
    prepared: Path, tmp_path: Path
) -> None:
    given = Path(write(tmp_path / "set"))
    config = load(prepared, f"train.synthetic_set={given}", "train.seeds=[0]", f"output_dir={tmp_path}")
    baseline, run = train_runs(config)
    content_id = ImageSet(given).manifest.content_id
    for each, result in ((baseline, {}), (run, {"synthetic_content_id": content_id})):
        run_once("train", each.place.folder, each.place.identity, config, lambda folder, result=result: result)
    refuse_another_set(config, [baseline, run])
    shutil.rmtree(given)
    refuse_another_set(config, [baseline, run])
    write(given, num_images=18)
    with pytest.raises(
        StageError, match=rf"^sio, seed 0 was trained on another set than {given} holds by now; put that"
    ):
        refuse_another_set(config, [baseline, run])
    refuse_another_set(config, [baseline])


@pytest.mark.parametrize("drawn", [(), ("generate.num_images=60",)])
def test_who_draws_the_set_is_told_how_to_draw_more(prepared: Path, drawn: tuple[str, ...], tmp_path: Path) -> None:
    config = load(prepared, *drawn, "train.synthetic_ratio=2")
    real = open_with(prepared, f"train.synthetic_set={write(tmp_path / 'set')}").real
    with pytest.raises(ConfigError) as error:
        synthetic_images(config, real, ImageSet(tmp_path / "set"))
    field = f"num_images={2 * len(real)}" if drawn else "synthetic_ratio=2"
    assert f"; draw more with generate.{field}, or lower it." in str(error.value)
