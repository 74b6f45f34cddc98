"""OpenOOD's lists are the law: each line is one picture of one set, and what contradicts itself is refused."""

import pytest
from PIL import Image

from sio_ray.config import PrepareConfig
from sio_ray.datasets import load_source
from sio_ray.datasets.openood import BENCHMARKS
from sio_ray.errors import ConfigError, ImageSetError

CIFAR10 = {
    "train_cifar10": [
        f"cifar10/train/{name}/{i}.png {label}" for label, name in enumerate(("cat", "dog")) for i in (0, 1)
    ],
    "val_cifar10": ["cifar10/test/cat/0.png 0", "cifar10/test/dog/0.png 1"],
    "test_cifar10": ["cifar10/test/cat/1.png 0", "cifar10/test/dog/1.png 1", "cifar10/test/dog/2.png 1"],
    "val_tin": ["tin/val/images/v 0.JPEG -1"],  # a name may hold a space
    "test_tin": ["tin/test/a.JPEG -1", "tin/test/b.JPEG -1"],
    "test_cifar100": ["cifar100/test/fox/0.png 7"],  # what an OOD list says of labels means nothing
    "test_mnist": ["mnist/test/0.png -1"],
    "test_svhn": ["svhn/test/0.png -1"],
    "test_texture": ["texture/banded/0.jpg -1"],
    "test_places365": ["places365/pond/0.jpg -1"],
    "train_tin597": ["tin597/test/n0/0.JPEG -1"],
}

IMAGENET200 = {
    "train_imagenet200": [f"imagenet_1k/train/n{label:08d}/0.JPEG {label}" for label in range(3)],
    "val_imagenet200": [f"imagenet_1k/val/{label}.JPEG {label}" for label in range(3)],
    "test_imagenet200": [f"imagenet_1k/val/{label + 3}.JPEG {label}" for label in range(3)],
    "val_openimage_o": ["openimage_o/images/0.jpg -1"],
    **{f"test_{name}": [f"{name}/0.jpg -1"] for name in ("ssb_hard", "ninco", "inaturalist", "openimage_o")},
    "test_textures": ["texture/banded/0.jpg -1"],
}


def write(root, benchmark, lists):
    for name, lines in lists.items():
        path = root / "benchmark_imglist" / benchmark / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
        folder = "images_classic" if benchmark.startswith("cifar") or name == "test_textures" else "images_largescale"
        for line in lines:
            picture = root / folder / line.rpartition(" ")[0]
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 36)).save(picture)


def load(root, benchmark="cifar10", **changes):
    values = {"images_per_ood_set": 4, "num_outliers": 4, **changes}
    return load_source(PrepareConfig(source="openood", benchmark=benchmark, root=root, **values))


@pytest.fixture
def root(tmp_path):
    write(tmp_path, "cifar10", CIFAR10)
    return tmp_path


def lines_of(part):
    return [
        f"{path.removeprefix('images_classic/')} {label}" for path, label in zip(part.paths, part.labels, strict=True)
    ]


def test_every_list_is_one_set(root):
    collection = load(root)
    assert collection.class_names == ("cat", "dog")
    assert sorted(lines_of(collection.train)) == CIFAR10["train_cifar10"]
    assert lines_of(collection.val) == CIFAR10["val_cifar10"]
    assert lines_of(collection.test) == CIFAR10["test_cifar10"]
    assert {name: lines_of(part) for name, part in collection.near_val.items()} == {"tin": CIFAR10["val_tin"]}
    assert list(collection.near_test) == ["cifar100", "tin"]
    assert lines_of(collection.near_test["cifar100"]) == ["cifar100/test/fox/0.png -1"]
    assert list(collection.far_test) == ["mnist", "svhn", "texture", "places365"]
    for _, part in collection.sets():
        assert part.read(0).shape == (3, 32, 32)


def test_sets_may_be_left_out_and_are_then_not_looked_for(root):
    for name in ("tin", "mnist", "svhn", "places365"):
        (root / "benchmark_imglist" / "cifar10" / f"test_{name}.txt").unlink()
    collection = load(root, near_ood_sets=("cifar100",), far_ood_sets=("texture",))
    assert [*collection.near_test, *collection.far_test] == ["cifar100", "texture"]


def test_shifted_sets_are_those_that_were_asked_for_and_have_labels(root):
    assert not any(name.startswith("id_shifted") for name, _ in load(root).sets())
    write(root, "cifar10", {"test_cifar10c": ["cifar10c/blur/1.png 1", "cifar10c/blur/2.png 0"]})
    shifted = dict(load(root, shifted_sets=("cifar10c",)).sets())["id_shifted/cifar10c"]
    assert shifted.labels.tolist() == [1, 0]
    with pytest.raises(ConfigError, match=r"^prepare\.shifted_sets must be among cifar10c, got \('fog',\); choose"):
        load(root, shifted_sets=("fog",))
    write(root, "cifar10", {"test_cifar10c": ["cifar10c/blur/1.png 9"]})
    with pytest.raises(ImageSetError, match=r"test_cifar10c.txt must have labels in \[0, 2\), got 9\.\.9; fetch"):
        load(root, shifted_sets=("cifar10c",))


def test_outliers_are_those_of_the_list(root):
    assert lines_of(load(root, outliers="source").outliers) == CIFAR10["train_tin597"]


def test_textures_are_among_the_classic_pictures(tmp_path):
    write(tmp_path, "imagenet200", IMAGENET200)
    collection = load(tmp_path, "imagenet200")
    assert collection.far_test["textures"].paths == ["images_classic/texture/banded/0.jpg"]
    assert collection.far_test["inaturalist"].paths == ["images_largescale/inaturalist/0.jpg"]
    assert list(collection.near_val) == ["openimage_o"]
    assert collection.class_names == ("n00000000", "n00000001", "n00000002")


def test_classes_get_the_names_of_the_imagenet_classes_that_they_are(tmp_path):
    write(tmp_path, "imagenet200", IMAGENET200)
    assert load(tmp_path, "imagenet200", id_classes=(1, 31, 404)).class_names == ("goldfish", "tree frog", "airliner")
    for wrong in ((1, 31), (31, 1, 404), (1, 31, 1000)):
        with pytest.raises(ConfigError) as error:
            load(tmp_path, "imagenet200", id_classes=wrong)
        assert str(error.value) == (
            f"prepare.id_classes must be the 3 ImageNet classes of the lists in ascending order, got {wrong}; "
            "give one for each label, or leave it out to name classes after their folders."
        )


def test_imagenet_has_all_thousand_classes_by_name(tmp_path):
    lists = {name: lines for name, lines in IMAGENET200.items() if "imagenet200" not in name}
    for part in ("train", "val", "test"):
        lists[f"{part}_imagenet"] = [f"imagenet_1k/{part}/n{label:08d}/0.JPEG {label}" for label in range(1000)]
    write(tmp_path, "imagenet", lists)
    names = load(tmp_path, "imagenet").class_names
    assert (names[0], names[404], names[999]) == ("tench", "airliner", "toilet tissue")


def test_folders_in_another_order_than_the_labels_get_no_names(tmp_path):
    turned = [f"imagenet_1k/train/n{2 - label:08d}/0.JPEG {label}" for label in range(3)]
    write(tmp_path, "imagenet200", {**IMAGENET200, "train_imagenet200": turned})
    with pytest.raises(ConfigError, match=r"^prepare\.id_classes must be the 3 ImageNet classes"):
        load(tmp_path, "imagenet200", id_classes=(1, 31, 404))


def message_of(root, **changes):
    with pytest.raises(ImageSetError) as error:
        load(root, **changes)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_pictures_are_counted_and_the_first_is_named(root):
    for number in (1, 2):
        (root / "images_classic" / "cifar10" / "test" / "dog" / f"{number}.png").unlink()
    assert message_of(root) == (
        f"2 of 3 pictures of image list {root}/benchmark_imglist/cifar10/test_cifar10.txt are not in "
        f"{root}/images_classic, the first is cifar10/test/dog/1.png; fetch that data set as OpenOOD's "
        "scripts/download does, or leave the set out."
    )


def test_a_data_set_that_is_not_there_at_all(root):
    (root / "images_classic" / "mnist").rename(root / "elsewhere")
    assert message_of(root).startswith(
        f"1 of 1 pictures of image list {root}/benchmark_imglist/cifar10/test_mnist.txt are"
    )


@pytest.mark.parametrize("other", ["train_cifar10", "test_cifar10", "val_tin"])
def test_a_picture_in_two_lists_is_named(root, other):
    write(
        root, "cifar10", {"val_cifar10": CIFAR10["val_cifar10"], other: ["cifar10/test/cat/0.png 0", *CIFAR10[other]]}
    )
    message = message_of(root)
    assert "of" in message
    assert message.endswith(
        "have 1 pictures in common, such as cifar10/test/cat/0.png; a picture must be in one set only, so fetch "
        "OpenOOD's lists again."
    )


@pytest.mark.parametrize("line", ["cifar10/test/cat/0.png", "0", "cifar10/test/cat/0.png zero"])
def test_a_line_that_is_none_is_named(root, line):
    path = root / "benchmark_imglist" / "cifar10" / "val_cifar10.txt"
    path.write_text(f"{CIFAR10['val_cifar10'][0]}\n\n{line}\n")
    assert message_of(root) == (f"line 3 of image list {path} must be a path and a label, got {line!r}; mend the line.")


def test_an_empty_list_and_a_missing_one(root):
    path = root / "benchmark_imglist" / "cifar10" / "val_cifar10.txt"
    path.write_text("\n")
    assert message_of(root) == f"image list {path} names no picture; fetch OpenOOD's lists again."
    path.unlink()
    assert message_of(root) == (
        f"image list {path} cannot be read ([Errno 2] No such file or directory: '{path}'); prepare.root must be "
        "OpenOOD's data folder, with benchmark_imglist in it."
    )


def test_a_class_without_test_pictures_is_named_before_work_starts(root):
    write(root, "cifar10", {"test_cifar10": ["cifar10/test/cat/1.png 0"]})
    assert message_of(root) == (
        "the test set of source openood has no picture of class dog; add some, or drop the class."
    )


def test_labels_that_the_training_list_has_not(root):
    write(root, "cifar10", {"test_cifar10": ["cifar10/test/cat/1.png 2"]})
    assert message_of(root).endswith("must have labels in [0, 2), got 2..2; fetch OpenOOD's lists again.")


@pytest.mark.parametrize(
    "lines", [["cifar10/train/cat/0.png 0", "cifar10/train/dog/0.png 0"], ["cifar10/train/cat/0.png 1"]]
)
def test_labels_that_are_no_numbering_of_the_folders(root, lines):
    write(root, "cifar10", {"train_cifar10": lines})
    assert message_of(root).startswith(
        "the training list of cifar10 must number its folders 0, 1, ... without gaps, got"
    )


@pytest.mark.parametrize(
    ("field", "known"), [("near_ood_sets", "cifar100, tin"), ("far_ood_sets", "mnist, svhn, texture")]
)
def test_unknown_sets_are_named_beside_the_known(root, field, known):
    with pytest.raises(
        ConfigError, match=rf"^prepare\.{field} must be among {known}.*, got \('lsun',\); choose from these"
    ):
        load(root, **{field: ("lsun",)})


def test_a_benchmark_without_outliers(tmp_path):
    with pytest.raises(
        ConfigError, match=r"^prepare\.outliers must be drawn for benchmark imagenet, got 'source'; OpenOOD"
    ):
        load(tmp_path, "imagenet", outliers="source")


def test_the_table_has_every_benchmark_that_the_config_knows():
    annotation = PrepareConfig.model_fields["benchmark"].annotation
    assert set(BENCHMARKS) == set(annotation.__args__[0].__args__)
