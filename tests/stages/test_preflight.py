"""What a later stage would trip over is refused before the first one starts, in words that say what to change."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sio_ray.config import STAGES, Config, load_config, preset_names
from sio_ray.errors import BatchError, CheckpointError, ConfigError, ImageSetError, ResourceError, SioRayError
from sio_ray.imageset import ImageSetInfo, write_image_set
from sio_ray.imageset.storage import Folder
from sio_ray.ood.detectors import DETECTORS
from sio_ray.stages.preflight import check

WITHOUT_LAST_LAYER = ", ".join(name for name, detector in DETECTORS.items() if "last_layer" not in detector.needs)


def load(tmp_path: Path, *overrides: str) -> Config:
    return load_config("digits", [f"output_dir={tmp_path}/out", *overrides])


def write_synthetic_set(folder: Path) -> None:
    info = ImageSetInfo(class_names=("a",), height_px=2, width_px=2, channels=1)
    write_image_set(folder, info, np.zeros((2, 1, 2, 2), dtype=np.uint8), np.zeros(2, dtype=np.int64))


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_passes_and_leaves_nothing_but_its_folder(preset: str, tmp_path: Path) -> None:
    config = load_config(preset, [f"output_dir={tmp_path}/out"])
    # A generator on the hub is looked up there, which needs the network.
    check(config, [stage for stage in STAGES if stage != "generate" or config.generate.generator is None])
    assert list(tmp_path.rglob("*")) == [tmp_path / "out", tmp_path / "out" / preset]


def test_what_is_in_the_folder_already_is_kept(tmp_path: Path) -> None:
    config = load(tmp_path)
    check(config, STAGES)
    (config.run_dir / "result").write_text("precious")
    check(config, STAGES)
    assert [(path.name, path.read_text()) for path in config.run_dir.iterdir()] == [("result", "precious")]


TRAINS = {"train", "tune"}

REFUSED: list[tuple[tuple[str, ...], set[str], type[SioRayError], str]] = [
    (
        ("train.algorithm=cutmixx",),
        TRAINS | {"evaluate"},
        ConfigError,
        "train.algorithm must be among cross_entropy, logit_norm, vos, g_odin, mixup, cutmix, pixmix, "
        "outlier_exposure, got 'cutmixx'; did you mean cutmix.",
    ),
    (
        ("train.network=resnet",),
        TRAINS | {"evaluate"},
        ConfigError,
        "train.network must be among small_cnn, resnet18_32px, resnet18_64px, wide_resnet_40_2, densenet_32px, "
        "resnet18_224px, resnet50_224px, vit_b_16, got 'resnet'; did you mean resnet18_64px.",
    ),
    (
        ("train.width=null", "train.network=resnet18_32px", "train.pretrained=IMAGENET1K_V1"),
        TRAINS | {"evaluate"},
        ConfigError,
        "train.pretrained must be left out for resnet18_32px, got 'IMAGENET1K_V1'; torchvision has weights for "
        "resnet18_224px, resnet50_224px, vit_b_16.",
    ),
    (
        ("train.global_batch_size=12", "train.num_workers=4", "train.micro_batches=4"),
        TRAINS,
        ConfigError,
        "train.micro_batches must be at most a worker's part of the batch (3), got 4; "
        "lower it, or take a larger batch.",
    ),
    (
        (
            *("train.algorithm=g_odin", "evaluate.detectors=[msp, energy]"),
            *("train.global_batch_size=10", "train.num_workers=3", "train.micro_batches=2"),
        ),
        TRAINS,
        ConfigError,
        "train.global_batch_size must be at least 2 for each of train.num_workers (3) times train.micro_batches (2) "
        "with train.algorithm=g_odin, got 10; take a larger batch, as its head normalises over it.",
    ),
    (
        ("train.outlier_set=/some/set",),
        TRAINS,
        ConfigError,
        "train.outlier_set must be left out for train.algorithm=cross_entropy, got '/some/set'; "
        "only outlier_exposure trains on such pictures.",
    ),
    (
        ("train.algorithm=outlier_exposure", "train.outlier_set=/no/set"),
        TRAINS,
        ImageSetError,
        "image set /no/set does not exist or is empty; check the path, or run the stage that writes it.",
    ),
    (
        ("train.algorithm=pixmix", "train.mixing_set=/no/set"),
        TRAINS,
        ImageSetError,
        "image set /no/set does not exist or is empty; check the path, or run the stage that writes it.",
    ),
    (
        ("train.real_weight=1", "train.real_weight_ramp.start=0.5"),
        TRAINS,
        BatchError,
        "train.real_batch_share=1.0 leaves no synthetic image in a batch although a train.real_weight of 0.5 gives "
        "that source weight; change one of the two.",
    ),
    (
        ("train.synthetic_ratio_ramp.start=2",),
        TRAINS,
        ConfigError,
        "train.synthetic_ratio_ramp.start must be at most generate.synthetic_ratio (1), got 2.0; "
        "draw more with generate.synthetic_ratio=2, or lower it.",
    ),
    (
        ("train.algorithm=g_odin", "evaluate.detectors=[energy, vim]"),
        {"evaluate"},
        ConfigError,
        f"evaluate.detectors must be among {WITHOUT_LAST_LAYER} for a network without a linear last layer, got 'vim'; "
        "leave it out, or set evaluate.detectors=[all] for all that suit.",
    ),
    (
        ("evaluate.detectors=[all, msp]",),
        {"evaluate"},
        ConfigError,
        "evaluate.detectors must be all, or names, got ['all', 'msp']; give one of the two.",
    ),
    (
        ("evaluate.detector_options.knn.k=0",),
        {"evaluate"},
        ConfigError,
        "evaluate.detector_options.knn.k must be at least 1, got 0; correct the value.",
    ),
    (
        ("evaluate.detector_options.knn.kk=3",),
        {"evaluate"},
        ConfigError,
        "evaluate.detector_options.knn.kk must be an option of knn (k), got 3; did you mean k.",
    ),
    (
        ("evaluate.detectors=[energy]", "evaluate.detector_options.knn.k=3"),
        {"evaluate"},
        ConfigError,
        "evaluate.detector_options must be of detectors in evaluate.detectors, got 'knn'; choose from these.",
    ),
    (
        ("train.ensemble_size=2", "evaluate.detectors=[msp, energy]"),
        {"tune"},
        ConfigError,
        "train.ensemble_size must be 1 while the weight and the ratio are searched, got 2; "
        "tune one member, and train the ensemble with what is found.",
    ),
    (
        ("report.detector=vim", "evaluate.detectors=[msp, energy]"),
        {"report"},
        ConfigError,
        "report.detector must be among evaluate.detectors (msp, energy), got 'vim'; choose one of them.",
    ),
    (
        ("fit_generator.report_every_steps=20", "fit_generator.preview_every_steps=50"),
        {"fit-generator"},
        ConfigError,
        "fit_generator.preview_every_steps must be a multiple of report_every_steps (20), got 50; "
        "change one of the two, or give 0 for no previews.",
    ),
    (
        ("generate.accelerator_type=H100",),
        {"generate"},
        ConfigError,
        "generate.accelerator_type must be left out while generate.gpus_per_actor is 0, got 'H100'; give actors a GPU.",
    ),
    (
        ("generate.curation.classifier=/no/classifier",),
        {"generate"},
        CheckpointError,
        "/no/classifier is no checkpoint (architecture.json is missing); run `sio-ray train`, or check the path.",
    ),
    (
        ("evaluate.detectors=[energy, enrgy]",),
        {"evaluate"},
        ConfigError,
        f"evaluate.detectors must be among {', '.join(DETECTORS)}, got 'enrgy'; did you mean energy.",
    ),
    (
        ("evaluate.detectors=[energy, energy]",),
        {"evaluate"},
        ConfigError,
        "evaluate.detectors must be one or more names without repeats, got ['energy', 'energy']; "
        "name each detector once.",
    ),
    (
        ("tune.detectors=[knn2]",),
        {"tune"},
        ConfigError,
        f"tune.detectors must be among {', '.join(DETECTORS)}, got 'knn2'; did you mean knn.",
    ),
    (
        ("generate.generator=/no/such/model",),
        {"generate"},
        CheckpointError,
        "generate.generator /no/such/model is no folder, and no hub id such as facebook/DiT-XL-2-256; "
        "run `sio-ray fit-generator`, or give one that is there.",
    ),
    (
        ("train.global_batch_size=3", "train.num_workers=4", "train.arms=[baseline]"),
        {"train", "tune"},
        ConfigError,
        "train.global_batch_size must be at least train.num_workers (4), got 3; take a larger batch or fewer workers.",
    ),
    (
        ("train.global_batch_size=2",),
        {"train", "tune"},
        BatchError,
        "a batch of 2 cannot hold both sources at real_batch_share 0.8; take a batch of at least 3.",
    ),
    (
        ("train.real_batch_share=1",),
        {"train", "tune"},
        BatchError,
        "train.real_batch_share=1.0 leaves no synthetic image in a batch although a train.real_weight of 0.8 gives "
        "that source weight; change one of the two.",
    ),
    (
        ("train.real_batch_share=0",),
        {"train", "tune"},
        BatchError,
        "train.real_batch_share=0.0 leaves no real image in a batch although a train.real_weight of 0.8 gives that "
        "source weight; change one of the two.",
    ),
    (
        ("train.synthetic_ratio=1.5",),
        {"train", "tune"},
        ConfigError,
        "train.synthetic_ratio must be at most generate.synthetic_ratio (1), got 1.5; "
        "draw more with generate.synthetic_ratio=1.5, or lower it.",
    ),
    (
        ("train.synthetic_ratio=0",),
        {"train", "tune"},
        ConfigError,
        "train.synthetic_ratio must be greater than 0 while train.real_batch_share is below 1, got 0.0; "
        "raise it, or train with train.arms=[baseline].",
    ),
    (
        ("train.synthetic_set=/no/such/set",),
        {"train", "tune"},
        ImageSetError,
        "image set /no/such/set does not exist or is empty; check the path, or run the stage that writes it.",
    ),
]


@pytest.mark.parametrize(("overrides", "stages", "error", "message"), REFUSED)
def test_a_config_that_cannot_work_is_refused_by_each_stage_that_would_fail(
    overrides: tuple[str, ...], stages: set[str], error: type[SioRayError], message: str, tmp_path: Path
) -> None:
    config = load(tmp_path, *overrides)
    for stage in stages:
        with pytest.raises(error) as caught:
            check(config, [stage])
        assert str(caught.value) == message
    with pytest.raises(error):
        check(config, STAGES)
    assert list(tmp_path.rglob("*")) == [tmp_path / "out", tmp_path / "out" / "digits"]


@pytest.mark.parametrize(("overrides", "stages", "error", "message"), REFUSED)
def test_a_stage_that_is_not_about_to_run_is_not_judged(
    overrides: tuple[str, ...], stages: set[str], error: type[SioRayError], message: str, tmp_path: Path
) -> None:
    check(load(tmp_path, *overrides), [stage for stage in STAGES if stage not in stages])


def test_a_detector_of_feature_maps_is_refused_for_an_ensemble(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"knn, .* for a network without feature maps, got 'gram'; leave it out"):
        check(load(tmp_path, "train.ensemble_size=3", "evaluate.detectors=[energy, gram]"), ["evaluate"])


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.global_batch_size=2", "train.arms=[baseline]"),
        ("train.real_batch_share=1", "train.arms=[baseline]"),
        ("train.synthetic_ratio=1.5", "train.arms=[baseline]"),
        ("train.synthetic_ratio=1.5", "generate.synthetic_ratio=1.5"),
        ("train.real_weight=1", "train.real_batch_share=1", "train.synthetic_ratio=0"),
        ("train.real_weight=0", "train.real_batch_share=0"),
        ("train.real_weight=1", "train.real_batch_share=0.5"),
        ("train.global_batch_size=4", "train.num_workers=4"),
        ("report.detector=vim", "evaluate.detectors=[msp, vim]"),
        ("report.detector=gram", "evaluate.detectors=[all]"),
    ],
)
def test_a_config_at_the_edge_of_a_rule_passes(overrides: tuple[str, ...], tmp_path: Path) -> None:
    check(load(tmp_path, *overrides), STAGES)


def test_the_batch_that_the_error_advises_is_large_enough(tmp_path: Path) -> None:
    refused = 0
    for share, size in itertools.product((0.01, 0.1, 0.3, 0.5, 0.8, 0.9, 0.95, 0.999), (1, 2, 3, 5, 9, 50)):
        overrides = (f"train.real_weight={share}", f"train.global_batch_size={size}")
        try:
            check(load(tmp_path, *overrides), ["train"])
        except BatchError as error:
            refused += 1
            advised = int(re.findall(r"at least (\d+)", str(error))[0])
            check(load(tmp_path, overrides[0], f"train.global_batch_size={advised}"), ["train"])
        else:
            # One image of the smaller source is half of what rounds to one.
            assert size * min(share, 1 - share) >= 0.5 - 1e-9
            assert size >= 2
        assert math.isclose(load(tmp_path, *overrides).train.batch_share, share)
    assert refused > 10


def test_a_given_synthetic_set_is_not_bound_by_what_generate_draws(tmp_path: Path) -> None:
    write_synthetic_set(tmp_path / "set")
    check(load(tmp_path, f"train.synthetic_set={tmp_path}/set", "train.synthetic_ratio=1.5"), STAGES)


def test_a_synthetic_set_that_is_unfinished_is_named(tmp_path: Path) -> None:
    write_synthetic_set(tmp_path / "set")
    (tmp_path / "set" / "manifest.json").unlink()
    with pytest.raises(ImageSetError, match=r"image set .*/set is unfinished \(it has no manifest\.json\)"):
        check(load(tmp_path, f"train.synthetic_set={tmp_path}/set"), ["train"])


def test_a_generator_must_be_one(tmp_path: Path, gaussian_generator: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(CheckpointError, match=rf"{tmp_path}/model .*model_index.json"):
        check(load(tmp_path, f"generate.generator={tmp_path}/model"), ["generate"])
    check(load(tmp_path, f"generate.generator={gaussian_generator}"), ["generate"])


@pytest.mark.parametrize(("blocker", "reason"), [("out", "Not a directory"), ("out/digits", "File exists")])
def test_a_file_in_place_of_the_output_folder_is_named(blocker: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / blocker).parent.mkdir(exist_ok=True)
    (tmp_path / blocker).write_text("in the way")
    with pytest.raises(ResourceError) as caught:
        check(load(tmp_path), [])
    assert str(caught.value) == (
        f"output_dir must be a folder that you may write to, got {tmp_path}/out "
        f"({reason}: {tmp_path}/out/digits); set output_dir=/another/folder."
    )
    assert (tmp_path / blocker).read_text() == "in the way"


def test_a_folder_that_takes_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    config = load(tmp_path)
    monkeypatch.setattr("os.fsync", read_only)
    with pytest.raises(ResourceError, match=rf"cannot write {config.run_dir}/\.write-probe \(\[Errno 30\] Read-only"):
        check(config, [])
    assert list(config.run_dir.iterdir()) == []


def test_two_sessions_may_probe_the_folder_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Folder.write_bytes

    def write_then_lose(folder: Folder, name: str, data: bytes) -> None:
        write(folder, name, data)
        (Path(folder.uri) / name).unlink()

    monkeypatch.setattr(Folder, "write_bytes", write_then_lose)
    check(load(tmp_path), [])
