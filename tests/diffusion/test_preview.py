"""Previews and the loss curve: the same pictures every time, and training does not notice."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from sio_ray.config import FitGeneratorConfig
from sio_ray.diffusion.curve import draw_loss, write_curve
from sio_ray.diffusion.denoiser import build_unet
from sio_ray.diffusion.preview import draw_preview, write_preview
from sio_ray.diffusion.trainee import GeneratorTrainee
from sio_ray.imageset import ImageSetInfo
from sio_ray.imageset.storage import Folder
from sio_ray.training.loop import train

NAMES = ("a", "b", "c")


class Watcher:
    """A reporter that draws previews, or not."""

    def __init__(self, trainee: GeneratorTrainee, folder: Folder | None) -> None:
        self._trainee, self._folder = trainee, folder

    def resume(self) -> None:
        return None

    def average(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def progress(self, step: int) -> None:
        pass

    def report(self, step: int, points: list, state: object) -> None:
        if self._folder is not None:
            write_preview(self._folder, step, self._trainee.averaged_unet(), 0.5, NAMES)
            write_curve(self._folder, points)


def trained(config, info, images, folder: Folder | None):
    torch.manual_seed(0)
    unet = build_unet(config, info)
    trainee = GeneratorTrainee(unet, unet, images, 0.5, config)
    points = train(trainee, num_steps=4, report_every_steps=2, reporter=Watcher(trainee, folder))
    return trainee.state(), points, torch.get_rng_state(), unet.training


def test_training_ends_the_same_with_and_without_previews(config, info, images, tmp_path):
    plain, points, rng_state, training = trained(config, info, images, None)
    watched, *others = trained(config, info, images, Folder(str(tmp_path)))
    assert [name for name in plain if not torch.equal(plain[name], watched[name])] == []
    assert others[0] == points
    assert torch.equal(others[1], rng_state)
    assert others[2] is training is True
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == ["loss.png", "step-000002.png", "step-000004.png"]
    assert json.loads((tmp_path / "curve.json").read_text()) == points


def test_the_same_network_gives_the_same_sheet_and_another_another(unet, config, info, tmp_path):
    def sheet(step: int, network: object) -> bytes:
        write_preview(Folder(str(tmp_path)), step, network, 0.5, NAMES)
        return (tmp_path / "previews" / f"step-{step:06d}.png").read_bytes()

    one = sheet(100, unet)
    torch.manual_seed(5)
    np.random.default_rng().random()
    assert sheet(200, unet) == one
    assert sheet(300, build_unet(config, info).eval()) != one


@pytest.mark.parametrize(
    ("num_classes", "shown"),
    [(1, [0]), (3, [0, 1, 2]), (10, list(range(10))), (19, list(range(0, 19, 2))), (1000, list(range(0, 1000, 111)))],
)
def test_four_pictures_of_at_most_ten_classes_spread_over_all(num_classes, shown):
    names = tuple(f"class {label}" for label in range(num_classes))
    info = ImageSetInfo(class_names=names, height_px=4, width_px=8, channels=3)
    unet = build_unet(FitGeneratorConfig(block_out_channels=(4,), layers_per_block=1, attention=False), info).eval()
    rows = draw_preview(unet, 0.5, names)
    assert [name for name, _ in rows] == [f"class {label}" for label in shown]
    for _, pictures in rows:
        assert pictures.shape == (4, 3, 4, 8)
        assert pictures.dtype == np.uint8
    pictures = np.concatenate([pictures for _, pictures in rows])
    assert len(np.unique(pictures, axis=0)) == len(pictures), "every picture has a seed of its own"


@pytest.mark.parametrize(
    "losses", [[0.3], [5.0, 1.0, 0.2, 0.1], [0.31, 0.30, 0.305], list(np.geomspace(9, 0.01, 300)), [0.2, 0.2]]
)
def test_the_loss_curve_is_a_picture_with_a_line_in_it_whatever_the_losses(losses):
    with Image.open(io.BytesIO(draw_loss([{"step": 10.0 * i + 10, "loss": y} for i, y in enumerate(losses)]))) as plot:
        assert plot.size == (750, 435)
        assert np.asarray(plot.convert("L")).min() < 60


def test_the_loss_curve_falls_where_the_loss_does():
    """With a logarithmic axis a loss that halves at every report is a straight line."""
    points = [{"step": float(step), "loss": 2.0 ** (-step / 10)} for step in range(10, 1000, 10)]
    with Image.open(io.BytesIO(draw_loss(points))) as plot:
        dark = np.asarray(plot.convert("L"))[20:350, 120:730] < 60
    columns = np.flatnonzero(dark.any(0))
    heights = np.array([np.flatnonzero(dark[:, column]).mean() for column in columns])
    fit = np.polyfit(columns, heights, 1)
    assert fit[0] > 0.3
    assert np.abs(heights - np.polyval(fit, columns)).max() < 3


def test_a_curve_is_replaced_by_a_longer_one(tmp_path):
    points = [{"step": 2, "loss": 0.5}]
    write_curve(Folder(str(tmp_path)), points)
    first = (tmp_path / "loss.png").read_bytes()
    points = [*points, {"step": 4, "loss": 0.25}]
    write_curve(Folder(str(tmp_path)), points)
    assert json.loads((tmp_path / "curve.json").read_text()) == points
    assert (tmp_path / "loss.png").read_bytes() != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.json", "loss.png"]
