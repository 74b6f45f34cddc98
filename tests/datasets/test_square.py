"""Pictures of any size, orientation and depth become one square, without stretching."""

import numpy as np
import pytest
from PIL import Image

from sio_ray.datasets.square import read_square, to_squares
from sio_ray.errors import ImageSetError
from sio_ray.imageset.foreign_pictures import bombs_are_errors


def read(path, size_px=8, channels=3):
    return read_square(path, size_px, channels)


def test_the_middle_is_cut_without_stretching(tmp_path):
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:, 16:32] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    np.testing.assert_array_equal(read(tmp_path / "wide.png", 16), np.full((3, 16, 16), 200))
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    assert (read(tmp_path / "tall.png", 8)[:, 1:7] == 200).all()


def test_scaling_down_averages(tmp_path):
    Image.fromarray(np.indices((64, 64)).sum(axis=0).astype(np.uint8) % 2 * 255).save(tmp_path / "fine.png")
    assert np.ptp(read(tmp_path / "fine.png", 8, 1).astype(int)[:, 1:7, 1:7]) <= 2


def test_exif_orientation_is_applied(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read(tmp_path / "turned.png")[0], pixels[::-1, :, 0])


def test_transparent_pixels_become_black(tmp_path):
    pixels = np.full((8, 8, 4), 255, np.uint8)
    pixels[:, :4, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "glass.png")
    Image.fromarray(pixels).convert("P").save(tmp_path / "palette.png", transparency=b"\x00" * 256)
    np.testing.assert_array_equal(read(tmp_path / "glass.png")[0, 0], [0] * 4 + [255] * 4)
    assert (read(tmp_path / "palette.png") == 0).all()


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((8, 8), 0x8000, np.uint16)).save(tmp_path / "deep.png")
    assert (read(tmp_path / "deep.png", 8, 1) == 0x80).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_formats(tmp_path, suffix):
    Image.new("RGB", (20, 16), (200, 100, 50)).save(tmp_path / f"a.{suffix}")
    assert np.abs(read(tmp_path / f"a.{suffix}").astype(int) - [[[200]], [[100]], [[50]]]).max() <= 3


def test_pictures_in_memory_are_treated_as_those_in_files(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28)).astype(np.uint8)
    squares = to_squares(images, 32, 3)
    for image, square in zip(images, squares, strict=True):
        Image.fromarray(image[0]).save(tmp_path / "a.png")
        np.testing.assert_array_equal(square, read(tmp_path / "a.png", 32, 3))
    np.testing.assert_array_equal(to_squares(images, 28, 1), images)


def test_broken_pictures_are_named(tmp_path):
    path = tmp_path / "3.png"
    path.write_bytes(b"no picture at all")
    with pytest.raises(ImageSetError, match=rf"^picture {path} cannot be decoded \(no known picture format"):
        read(path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ImageSetError, match=rf"^picture {path} cannot be decoded \(.*; replace or delete it\.$"):
        read(path)


@pytest.mark.parametrize("limit", [100, 30])
def test_bombs_are_refused_before_they_are_decoded(tmp_path, monkeypatch, limit):
    Image.new("RGB", (12, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with (
        bombs_are_errors(),
        pytest.raises(ImageSetError, match=r"a\.png cannot be decoded \(Image size \(120 pixels\) exceeds limit"),
    ):
        read(tmp_path / "a.png")
