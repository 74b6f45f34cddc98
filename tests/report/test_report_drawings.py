"""Laws of sprites and ROC curves: no pixel is lost, and the area under the drawn curve is the tabled AUROC."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from sio_ray.report.pictures import COLUMNS, MAX_CLASSES, choose_classes, make_sprite
from sio_ray.report.plots import draw_roc


def pixels(sprite):
    data = base64.b64decode(sprite.uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 7, 10, 23])
def test_every_picture_is_in_the_sprite_in_order(channels, count):
    pictures = np.random.default_rng(0).integers(0, 256, (count, channels, 8, 6)).astype(np.uint8)
    sprite = make_sprite(pictures)
    canvas = pixels(sprite)
    assert canvas.shape == (sprite.height_px, sprite.width_px, channels + 1)
    assert sprite.num_columns == min(count, COLUMNS)
    for i, picture in enumerate(pictures):
        top, left = i // COLUMNS * 9, i % COLUMNS * 7
        cell = canvas[top : top + 8, left : left + 6]
        assert np.array_equal(cell[..., :channels], picture.transpose(1, 2, 0))
        assert (cell[..., channels] == 255).all()
    assert (canvas[..., channels] == 255).sum() == count * 48, "gaps are transparent"


def test_no_picture_is_no_sprite():
    assert make_sprite(None) is None
    assert make_sprite(np.zeros((0, 1, 8, 8), np.uint8)) is None


def test_large_pictures_are_reduced_and_not_pixelated():
    sprite = make_sprite(np.full((10, 3, 224, 112), 200, np.uint8))
    canvas = pixels(sprite)
    assert sprite.height_px == 64
    assert not sprite.pixelated
    assert (canvas[..., :3][canvas[..., 3] == 255] == 200).all()


def test_classes_without_agreement_come_last():
    labels = choose_classes([None if i < 30 else 0.9 for i in range(40)])
    assert len(labels) == MAX_CLASSES
    assert labels == sorted(labels)
    assert set(range(30, 40)) <= set(labels)


def test_area_under_the_drawn_curve_is_the_tabled_auroc(data):
    for group in ("near", "far"):
        scores = data.scores
        for arm in ("baseline", "sio"):
            chosen = scores[(scores["arm"] == arm) & (scores["seed"] == 0)]
            svg = draw_roc(chosen, group)
            frame = re.search(r'<path d="([^"]*)"[^>]*stroke-dasharray[^>]*var\(--muted\)', svg)
            assert frame, "the chance line spans the axes"
            x0, y0, x1, y1 = numbers(frame[1])[[0, 1, -2, -1]]
            line = re.search(rf'<path d="([^"]*)"[^>]*stroke: var\(--{arm}\)', svg)
            points = numbers(line[1]).reshape(-1, 2)
            area = np.trapezoid((points[:, 1] - y0) / (y1 - y0), (points[:, 0] - x0) / (x1 - x0))
            rows = data.metrics.query("arm == @arm and seed == 0 and detector == 'energy' and group == @group")
            assert area == pytest.approx(rows["auroc"].mean(), abs=0.003)


def numbers(path):
    return np.array(re.findall(r"-?\d+(?:\.\d+)?", path), dtype=float)
