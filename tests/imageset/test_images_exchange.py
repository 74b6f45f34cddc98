"""What goes out comes back bit for bit, what does not fit is named, and nothing half-done looks whole."""

from __future__ import annotations

import gc
import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import webdataset
from imageset_samples import file_bytes, hollow_png, make_images, make_info, make_labels, write_random_set
from PIL import Image

from sio_ray.cli import main
from sio_ray.errors import ConfigError, ImageSetError, ResourceError
from sio_ray.imageset import ImageSet, write_image_set
from sio_ray.imageset.exchange import export_images, image_folder, import_images
from sio_ray.imageset.pictures import encode_png
from sio_ray.imageset.summary import find_image_sets
from sio_ray.imageset.verify import verify_image_set

SHAPES = [(1, 5, 7), (3, 5, 7)]


def to_npy(folder: Path, images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> str:
    folder.mkdir()
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    return str(folder)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_classes", [3, 0])
def test_npy_to_a_set_and_back_gives_the_same_files(
    shape: tuple[int, int, int], num_classes: int, tmp_path: Path
) -> None:
    info = make_info(shape, num_classes)
    images, labels = make_images(10, info), make_labels(10, info)
    stored = images[:, 0] if shape[0] == 1 else images.transpose(0, 2, 3, 1)
    source = to_npy(tmp_path / "npy", np.ascontiguousarray(stored), labels)
    progress: list[tuple[int, int]] = []
    import_images(
        "npy", source, str(tmp_path / "set"), images_per_shard=4, on_images=lambda *done: progress.append(done)
    )
    image_set = ImageSet(tmp_path / "set")
    assert progress == [(4, 10), (8, 10), (10, 10)]
    assert verify_image_set(image_set.uri).ok
    assert image_set.info.class_names == tuple(str(c) for c in range(num_classes))
    assert image_set.info.provenance == {"source": "npy", "path": source}
    assert np.array_equal(image_set.read().images, images)
    export_images("npy", image_set.uri, tmp_path / "back", on_images=lambda *done: progress.append(done))
    assert progress[3:] == [(4, 10), (8, 10), (10, 10)]
    assert file_bytes(tmp_path / "back") == file_bytes(tmp_path / "npy")


def test_npy_takes_the_images_file_names_of_classes_and_narrow_labels(tmp_path: Path) -> None:
    images = make_images(4, make_info((1, 4, 4), 2)).transpose(0, 2, 3, 1)
    source = to_npy(tmp_path / "npy", images, np.array([0, 1, 0, 1], dtype=np.uint8))
    import_images("npy", f"{source}/images.npy", str(tmp_path / "set"), class_names=("cat", "dog"))
    arrays = ImageSet(tmp_path / "set").read()
    assert ImageSet(tmp_path / "set").info.class_names == ("cat", "dog")
    assert (arrays.images.shape, arrays.labels.tolist()) == ((4, 1, 4, 4), [0, 1, 0, 1])


IMAGES, LABELS = make_images(4, make_info((1, 4, 4), 2))[:, 0], np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("images", "labels", "names", "message"),
    [
        (IMAGES / 255, LABELS, None, r"images\.npy must hold uint8 of .*, got float64 of shape \(4, 4, 4\); convert"),
        (IMAGES[:, None], LABELS, None, r"got uint8 of shape \(4, 1, 4, 4\)"),
        (IMAGES[0], LABELS, None, r"got uint8 of shape \(4, 4\)"),
        (IMAGES, LABELS[:3], None, r"labels\.npy must hold 4 integers, one for each image, got int64 of shape \(3,\)"),
        (IMAGES, LABELS / 1, None, r"got float64 of shape \(4,\); give the labels"),
        (IMAGES[:0], LABELS[:0], None, "holds no image; give one that does"),
        (IMAGES, LABELS - 1, None, r"all -1 \(an OOD set\) or all classes from 0, got -1\.\.0; import the two kinds"),
        (IMAGES, LABELS * 2, None, "has labels up to 2 but none is 1; number the classes without gaps"),
        (IMAGES, LABELS * 2**40, None, "has labels up to 1099511627776 but none is 1;"),
        (IMAGES, LABELS + 1, None, "has labels up to 2 but none is 0;"),
        (IMAGES, LABELS, ("a",), "has label 1, but there are 1 class names; give one for each"),
        (IMAGES, LABELS, ("a", "b", "c"), "has no image of class c; add some, or drop the class"),
        (IMAGES, LABELS * 0 - 1, ("a",), r"has only labels -1 \(an OOD set\), so no classes; leave out --class-names"),
        (
            np.array([{"a": 1}] * 4),
            LABELS,
            None,
            r"images\.npy is no \.npy file of numbers \(Array can.t be memory-mapped",
        ),
        (IMAGES, np.array([None] * 4), None, r"labels\.npy is no \.npy file of numbers \("),
    ],
)
def test_npy_that_is_no_pair_of_images_and_labels_is_named(
    images: Any, labels: Any, names: Any, message: str, tmp_path: Path
) -> None:
    source = to_npy(tmp_path / "npy", images, labels)
    with pytest.raises(ImageSetError, match=message):
        import_images("npy", source, str(tmp_path / "set"), class_names=names)
    assert not (tmp_path / "set").exists()


def test_npy_files_that_are_missing_or_cut_are_named(tmp_path: Path) -> None:
    source = Path(to_npy(tmp_path / "npy", IMAGES, LABELS))
    images, labels = source / "images.npy", source / "labels.npy"
    whole = images.read_bytes()
    for damage, message in [
        (lambda: images.write_bytes(whole[:-1]), r"images\.npy is no \.npy file of numbers \(.+\); save it with numpy"),
        (lambda: images.write_bytes(b""), r"images\.npy is no \.npy file of numbers \("),
        (
            lambda: images.write_bytes(pickle.dumps(1)),
            r"images\.npy is no \.npy file of numbers \(",
        ),
        (lambda: images.unlink(), r"images\.npy is missing; give a folder with images\.npy and labels\.npy"),
        (lambda: images.write_bytes(whole) and labels.unlink(), r"labels\.npy is missing"),
    ]:
        damage()
        with pytest.raises(ImageSetError, match=message):
            import_images("npy", str(source), str(tmp_path / "set"))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_classes", [3, 0])
def test_a_set_to_image_folders_and_back_gives_the_same_pictures(
    shape: tuple[int, int, int], num_classes: int, tmp_path: Path
) -> None:
    image_set = write_random_set(tmp_path / "set", 10, 4, shape=shape, num_classes=num_classes)
    arrays = image_set.read()
    export_images("image-folder", image_set.uri, tmp_path / "folder")
    assert {path.name for path in (tmp_path / "folder").iterdir()} == ({"a", "b", "c"} if num_classes else {"ood"})
    for row, label in enumerate(arrays.labels):
        path = tmp_path / "folder" / ("abc"[label] if num_classes else "ood") / f"{row:09d}.png"
        assert path.read_bytes() == encode_png(arrays.images[row])
    import_images("image-folder", str(tmp_path / "folder"), str(tmp_path / "back"))
    back = ImageSet(tmp_path / "back")
    order = np.argsort(arrays.labels, kind="stable")
    assert back.info.class_names == image_set.info.class_names
    assert back.info.image_shape == shape
    again = back.read()
    assert np.array_equal(again.images[np.argsort(again.labels, kind="stable")], arrays.images[order])
    assert np.array_equal(np.sort(again.labels), arrays.labels[order])


def save(path: Path, *size: int, mode: str = "RGB", **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def test_pictures_of_any_size_and_kind_are_brought_to_one(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    save(folder / "b" / "x.png", 64, 48)
    save(folder / "b" / "y.JPEG", 40, 80)
    save(folder / "a" / "grey.webp", 32, 32, mode="L", lossless=True)
    save(folder / "a" / "palette.bmp", 33, 32, mode="P")
    save(folder / "a" / "alpha.png", 32, 32, mode="RGBA")
    Image.fromarray(np.full((32, 32), 513, dtype=np.uint16)).save(folder / "a" / "16.png")
    (folder / "a" / ".hidden.png").write_bytes(b"")
    (folder / "a" / "notes.txt").write_text("no picture")
    (folder / ".cache").mkdir()
    import_images("image-folder", str(folder), str(tmp_path / "set"), size_px=32, channels=3)
    image_set = ImageSet(tmp_path / "set")
    assert image_set.info.class_names == ("a", "b")
    arrays = image_set.read()
    assert (arrays.images.shape, arrays.labels.tolist()) == ((6, 3, 32, 32), [0, 1, 0, 0, 1, 0])
    assert (arrays.images[0] == 2).all(), "16 bits become 8 by their upper half"
    whole = Image.open(folder / "b" / "x.png")
    expected = whole.resize((32, 32), Image.Resampling.BICUBIC, box=(8, 0, 56, 48))
    assert np.array_equal(arrays.images[1], np.asarray(expected).transpose(2, 0, 1))


def test_a_picture_that_is_turned_by_its_camera_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "pictures" / "a" / "turned.png", 6, 4, exif=exif)
    import_images("image-folder", str(tmp_path / "pictures"), str(tmp_path / "set"))
    turned = np.asarray(Image.open(path).transpose(Image.Transpose.ROTATE_270)).transpose(2, 0, 1)
    assert np.array_equal(ImageSet(tmp_path / "set").read().images[0], turned)


def bomb(path: Path, side: int) -> None:
    path.write_bytes(hollow_png(side, side))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: save(a / "2.png", 9, 8), r"2\.png is 9x8 px, the first picture is 8x8; give the size .* --size 8"),
        (lambda a: save(a / "2.png", 8, 8, mode="L"), r"2\.png is grey, the first picture is in colour; give --grey"),
        (lambda a: save(a / "0.png", 8, 8, mode="L"), r"1\.png is in colour, the first picture is grey; give --grey"),
        (lambda a: (a / "2.png").write_bytes(b"<svg/>"), r"2\.png cannot be decoded \(no known picture format"),
        (lambda a: (a / "2.png").write_bytes((a / "1.png").read_bytes()[:60]), r"2\.png cannot be decoded \("),
        # Half of what Pillow warns of, and more than what it refuses.
        (lambda a: bomb(a / "2.png", 10_000), r"2\.png cannot be decoded \(Image size \(100000000 pixels\) exceeds"),
        (lambda a: bomb(a / "2.png", 60_000), r"2\.png cannot be decoded \(Image size \(3600000000 pixels\) exceeds"),
        (lambda a: bomb(a / "0.png", 10_000), r"0\.png cannot be decoded \(Image size \(100000000 pixels\) exceeds"),
    ],
)
@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
def test_a_picture_that_does_not_fit_is_named_and_leaves_no_finished_set(
    make: Any, message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures" / "a"
    save(folder / "1.png", 8, 8)
    make(folder)
    with pytest.raises(ImageSetError, match=f"^picture {folder}/{message}"):
        import_images("image-folder", str(folder.parent), str(tmp_path / "set"))
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_pictures_of_32_bits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "a" / "x.tif")
    with pytest.raises(ImageSetError, match=r"x\.tif has 32-bit pixels; bring it to 8 bits first"):
        import_images("image-folder", str(tmp_path), str(tmp_path / "set"))


def test_folders_without_pictures_are_named(tmp_path: Path) -> None:
    for make, message in [
        (lambda: None, "pictures is no folder; give the one that holds <class>/<picture>"),
        (lambda: (tmp_path / "pictures").mkdir(), "pictures has no class folder; put the pictures in .*/<class>/"),
        (lambda: (tmp_path / "pictures" / "a").mkdir(), r"has no picture \(\.bmp, .*\) in a; add some, or delete"),
    ]:
        make()
        with pytest.raises(ImageSetError, match=message):
            import_images("image-folder", str(tmp_path / "pictures"), str(tmp_path / "set"))


def test_folder_names_are_safe_and_differ() -> None:
    names = ("a/b", "a:b", "cat", "CAT", "..", "con.txt", ".x", "", "tab\t", "end. ", "ü", "x" * 300)
    safe = image_folder._folder_names(names)
    assert safe[:11] == ["a_b", "a_b_1", "cat", "CAT_3", "_", "_con.txt", "_.x", "__7", "tab_", "end", "ü"]
    assert len(safe[11]) == 200
    assert image_folder._folder_names(("ood",)) == ["ood_0"], "alone it would be read back as an OOD set"
    assert image_folder._folder_names(("cat", "ood")) == ["cat", "ood"]


def write_list(folder: Path, labels: list[int]) -> Path:
    names = [f"sub dir/{row}.png" for row in range(len(labels))]
    for row, image in enumerate(make_images(len(labels), make_info())):
        path = folder / names[row]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(image))
    listing = folder / "imglist.txt"
    listing.write_text("\n".join(f"{name} {label}" for name, label in zip(names, labels, strict=True)) + "\n\n")
    return listing


@pytest.mark.parametrize("labels", [[1, 0, 2, 0], [-1, -1, -1]])
@pytest.mark.parametrize("moved", [True, False])
def test_an_openood_list_keeps_its_order_and_labels(labels: list[int], moved: bool, tmp_path: Path) -> None:
    listing = write_list(tmp_path / "data", labels)
    root = None
    if moved:
        listing, root = listing.rename(tmp_path / "imglist.txt"), str(tmp_path / "data")
    import_images("openood", str(listing), str(tmp_path / "set"), root=root)
    arrays = ImageSet(tmp_path / "set").read()
    assert arrays.labels.tolist() == labels
    assert ImageSet(tmp_path / "set").info.num_classes == max(labels) + 1
    assert np.array_equal(arrays.images, make_images(len(labels), make_info()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sub dir/0.png 0\nonly-a-path\n", r"line 2 of image list .* must be a path and a label, got 'only-a-path'"),
        ("sub dir/0.png zero\n", r"line 1 of image list .*, got 'sub dir/0\.png zero'; mend the line"),
        ("", "holds no image"),
        (
            "sub dir/0.png 0\n" + "".join(f"gone{i}.png 0\n" for i in range(5)),
            r"5 of 6 pictures of image list .* are not in .*/data \(gone0\.png, gone1\.png, gone2\.png, \.\.\.\); give",
        ),
    ],
)
def test_an_openood_list_that_does_not_fit_is_named(text: str, message: str, tmp_path: Path) -> None:
    listing = write_list(tmp_path / "data", [0])
    listing.write_text(text)
    with pytest.raises(ImageSetError, match=message):
        import_images("openood", str(listing), str(tmp_path / "set"))


def write_mnist(root: Path, name: str, count: int) -> npt.NDArray[np.uint8]:
    """A data set of the MNIST family as torchvision keeps it; gives its pictures."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for part, rows in (("train", pixels), ("t10k", pixels[:10])):
        head = struct.pack(">IIII", 0x803, len(rows), 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + rows.tobytes())
        labels = bytes(row % 10 for row in range(len(rows)))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, len(rows)) + labels)
    return pixels


def test_a_data_set_of_torchvision_is_read_by_name(tmp_path: Path) -> None:
    pixels = write_mnist(tmp_path, "FashionMNIST", 20)
    import_images("torchvision", "torchvision:FashionMNIST", str(tmp_path / "train"), root=str(tmp_path))
    import_images("torchvision", "FashionMNIST", str(tmp_path / "test"), root=str(tmp_path), split="test")
    train, test = ImageSet(tmp_path / "train"), ImageSet(tmp_path / "test")
    assert train.info.class_names[:2] == ("T-shirt/top", "Trouser")
    assert train.info.provenance == {"source": "torchvision", "dataset": "FashionMNIST", "split": "train"}
    assert np.array_equal(train.read().images, pixels[:, None])
    assert np.array_equal(train.read().labels, np.arange(20) % 10)
    assert len(test) == 10
    import_images("torchvision", "FashionMNIST", str(tmp_path / "rgb"), root=str(tmp_path), size_px=14, channels=3)
    assert ImageSet(tmp_path / "rgb").info.image_shape == (3, 14, 14)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("FashionMNIST", {"root": None}, ConfigError, "--root must be the folder that torchvision keeps the data set"),
        (
            "zzz",
            {},
            ConfigError,
            "SOURCE must be a data set of torchvision with splits, got 'zzz'; give a name such as",
        ),
        ("FashionMNST", {}, ConfigError, "got 'FashionMNST'; did you mean FashionMNIST"),
        ("VisionDataset", {}, ConfigError, "got 'VisionDataset'"),
        ("KMNIST", {}, ImageSetError, r"torchvision cannot open KMNIST in .* \(Dataset not found.*add --download"),
        ("FashionMNIST", {"split": "val"}, ConfigError, "--split must be train or test for FashionMNIST, got 'val'"),
        ("ImageNet", {"download": True}, ConfigError, "--download must be left out for ImageNet, got True"),
        ("VOCDetection", {}, ConfigError, "got 'VOCDetection'"),
    ],
)
def test_a_data_set_that_torchvision_does_not_give_is_named(
    name: str, options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    write_mnist(tmp_path, "FashionMNIST", 10)
    with pytest.raises(error, match=message):
        import_images("torchvision", name, str(tmp_path / "set"), **{"root": str(tmp_path), **options})


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_classes", [3, 0])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_what_was_written(shape: tuple[int, int, int], num_classes: int, tmp_path: Path) -> None:
    image_set = write_random_set(tmp_path / "set", 10, 4, shape=shape, num_classes=num_classes)
    arrays = image_set.read()
    for name in ("one", "two"):
        export_images("webdataset", image_set.uri, tmp_path / name)
    assert file_bytes(tmp_path / "one") == file_bytes(tmp_path / "two")
    tars = sorted(str(path) for path in (tmp_path / "one").iterdir())
    assert [Path(path).name for path in tars] == [f"set-{k:06d}.tar" for k in range(3)]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
    gc.collect()  # webdataset does not close its files; let Python say so here, where it is expected
    assert [sample["__key__"] for sample in samples] == [f"{row:09d}" for row in range(10)]
    assert [int(sample["cls"]) for sample in samples] == arrays.labels.tolist()
    assert [sample["png"] for sample in samples] == [encode_png(image) for image in arrays.images]
    with tarfile.open(tars[0]) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {(0, 0, 0, "", "", 0o644)}


def test_stored_pictures_of_another_format_are_exported_as_png(tmp_path: Path) -> None:
    from imageset_samples import adopt_bytes

    from sio_ray.imageset.shard import pack_shard

    info = make_info((1, 4, 4), 2)
    images, labels = make_images(2, info), make_labels(2, info)
    write_image_set(tmp_path / "set", info, images, labels)
    buffers = [io.BytesIO() for _ in images]
    for image, buffer in zip(images, buffers, strict=True):
        Image.fromarray(image[0]).save(buffer, format="BMP")
    data = pack_shard(info, [buffer.getvalue() for buffer in buffers], labels, np.arange(2))
    adopt_bytes(tmp_path / "set", data)
    export_images("image-folder", str(tmp_path / "set"), tmp_path / "folder")
    assert (tmp_path / "folder" / "a" / "000000000.png").read_bytes() == encode_png(images[0])


@pytest.mark.parametrize("format_name", ["npy", "image-folder", "webdataset"])
def test_an_export_that_fails_leaves_nothing(format_name: str, tmp_path: Path) -> None:
    image_set = write_random_set(tmp_path / "set", 10, 4)
    last = tmp_path / "set" / image_set.manifest.shards[2].name
    last.write_bytes(last.read_bytes()[:-1] + b"x")
    with pytest.raises(ImageSetError, match=rf"{last} .*(corrupt|has other bytes than the manifest says)"):
        export_images(format_name, image_set.uri, tmp_path / "out" / "dest")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_export_onto_something_or_nowhere_is_refused(tmp_path: Path) -> None:
    image_set = write_random_set(tmp_path / "set")
    (tmp_path / "there").mkdir()
    with pytest.raises(ImageSetError, match=r"there exists already; give another folder, or delete it first"):
        export_images("npy", image_set.uri, tmp_path / "there")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResourceError, match=r"cannot write .*/file/dest \(.*Not a directory"):
        export_images("npy", image_set.uri, tmp_path / "file" / "dest")
    with pytest.raises(ConfigError, match=r"DEST must be a local folder, got 's3:/bucket/x'; export to a disk"):
        export_images("npy", image_set.uri, Path("s3://bucket/x"))
    with pytest.raises(ConfigError, match=r"--format must be among npy, image-folder, webdataset, got 'webdata'; did"):
        export_images("webdata", image_set.uri, tmp_path / "dest")


def test_an_import_looks_at_its_place_and_its_options_before_its_source(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "no source")
    with pytest.raises(ConfigError, match="--size must be given only with --format image-folder, openood, torchvision"):
        import_images("npy", nowhere, str(tmp_path / "new"), size_px=32)
    with pytest.raises(ConfigError, match=r"--format must be among npy, .*torchvision, got 'nyp'; did you mean npy"):
        import_images("nyp", nowhere, str(tmp_path / "new"))
    write_random_set(tmp_path / "set")
    with pytest.raises(ImageSetError, match=r"set exists already; give another folder, or delete it first"):
        import_images("npy", nowhere, str(tmp_path / "set"))
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "part-00000-of-00009.parquet").write_bytes(b"drawn in an hour")
    (begun / "plan.json").write_text("{}")
    with pytest.raises(ImageSetError, match=r"begun holds files that no import wrote \(plan\.json\); give another"):
        import_images("npy", nowhere, str(begun))
    assert (begun / "part-00000-of-00009.parquet").read_bytes() == b"drawn in an hour"
    assert not (tmp_path / "new").exists()


def test_an_interrupted_import_is_done_anew(tmp_path: Path) -> None:
    source = to_npy(tmp_path / "npy", IMAGES, LABELS)

    def stop_at(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_images("npy", source, str(tmp_path / "set"), images_per_shard=1, on_images=stop_at)
    with pytest.raises(ImageSetError, match="is unfinished"):
        ImageSet(tmp_path / "set")
    import_images("npy", source, str(tmp_path / "set"), images_per_shard=2)
    assert verify_image_set(str(tmp_path / "set")).ok
    assert len(list((tmp_path / "set").glob("part-*"))) == 2


def test_every_tool_works_on_a_set_in_an_object_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, store = to_npy(tmp_path / "npy", IMAGES, LABELS), f"memory://{tmp_path.name}"
    import_images("npy", source, f"{store}/deep/set", images_per_shard=3)
    assert verify_image_set(f"{store}/deep/set", num_workers=1).ok
    export_images("npy", f"{store}/deep/set", tmp_path / "back")
    assert file_bytes(tmp_path / "back") == file_bytes(tmp_path / "npy")
    for command in ("ls", "head", "verify", "show"):
        options = ["--output", str(tmp_path / "sheet.png")] if command == "show" else []
        with pytest.raises(SystemExit) as stop:
            main(["images", command, f"{store}/deep/set", *options])
        assert not stop.value.code
    assert find_image_sets(store) == {"deep/set": f"{store}/deep/set"}
    with pytest.raises(ImageSetError, match="exists already"):
        import_images("npy", source, f"{store}/deep/set")


def test_shards_of_large_pictures_hold_fewer(tmp_path: Path) -> None:
    large = np.zeros((3, 8192, 8192), dtype=np.uint8)
    source = to_npy(tmp_path / "npy", large[:, :2], np.zeros(3, dtype=np.int64))
    assert len(import_images("npy", source, str(tmp_path / "flat")).shards) == 1
    (tmp_path / "large").mkdir()
    np.lib.format.open_memmap(tmp_path / "large" / "images.npy", "w+", np.uint8, (5, 11000, 8000))
    np.save(tmp_path / "large" / "labels.npy", np.zeros(5, dtype=np.int64))
    stopped: list[int] = []

    def stop(done: int, total: int) -> None:
        stopped.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_images("npy", str(tmp_path / "large"), str(tmp_path / "set"), on_images=stop)
    assert stopped == [3], "a shard holds at most 256 MiB of pixels"


def test_the_commands_say_what_they_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["images", *arguments])
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err.strip()

    source, dest, folder = to_npy(tmp_path / "npy", IMAGES, LABELS), str(tmp_path / "set"), str(tmp_path / "folder")
    code, out, err = run("import", source, dest, "--format", "npy", "--class-names", "cat, dog")
    assert (code, out) == (0, "")
    assert err.startswith(f"wrote {dest}: 4 images of 4x4 px, grey, 2 classes, 1 shard, 3.1 kB")
    assert run("export", dest, folder, "--format", "image-folder") == (
        0,
        "",
        f"wrote {folder}: 4 images as image-folder",
    )
    assert sorted(path.name for path in Path(folder).iterdir()) == ["cat", "dog"]
    code, out, err = run("import", folder, dest + "2", "--format", "image-folder", "--rgb", "--size", "6")
    assert (code, out) == (0, "")
    assert err.startswith(f"wrote {dest}2: 4 images of 6x6 px, RGB, 2 classes, 1 shard, ")
    assert run("import", source, dest, "--format", "npy") == (
        2,
        "",
        f"error: image set {dest} exists already; give another folder, or delete it first.",
    )


def test_the_same_import_gives_the_same_bytes(tmp_path: Path) -> None:
    source = to_npy(tmp_path / "npy", IMAGES, LABELS)
    digests = set()
    for name in ("one", "two"):
        import_images("npy", source, str(tmp_path / name))
        digests.add(hashlib.sha256(repr(sorted(file_bytes(tmp_path / name).items())).encode()).hexdigest())
    assert len(digests) == 1
