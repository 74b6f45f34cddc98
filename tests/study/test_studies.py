"""Every study that ships is valid at every point, and the README runs one of them."""

import re
from pathlib import Path

import pytest
from markdown_commands import read_document, sio_ray_commands

from sio_ray.config import load_config
from sio_ray.methods import METHODS
from sio_ray.stages.layout import train_runs
from sio_ray.stages.preflight import check_train
from sio_ray.stages.trainings import trainings
from sio_ray.study.plan import config_at, config_of, read_study

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_point_could_be_trained_and_differs_from_the_others_of_its_ablation(path):
    study = read_study(path)
    config = config_of(study, path, [])
    names = [ablation.name for ablation in study.ablations]
    assert len(set(names)) == len(names)
    assert not {"near", "far", "pictures"} & set(names), "other figures are called so"
    for ablation in study.ablations:
        configs = [config_at(point, study, config) for point in ablation.points]
        assert config in configs, "the table itself is a point, so that a reader can compare"
        for at in configs:
            for training in trainings(at):
                check_train(training.config)
        networks = [frozenset(run.place.folder for run in train_runs(at) if run.arm == "sio") for at in configs]
        assert len(set(networks)) == len(networks)


def test_the_preset_is_the_whole_table_and_the_readme_runs_it():
    config = load_config("fashion_mnist")
    assert config.method_names == tuple(METHODS)
    commands = sio_ray_commands(read_document("README.md"))
    assert ["run", "fashion_mnist"] in commands
    (study,) = (arguments for arguments in commands if arguments[0] == "study")
    assert ROOT / study[1] in STUDIES
    assert read_study(ROOT / study[1]).config == "fashion_mnist"


def test_the_ablations_that_the_readme_speaks_of_are_those_of_the_results():
    text = " ".join((ROOT / "README.md").read_text().split())
    results = (ROOT / "RESULTS.md").read_text()
    for title, words in {
        "How long the generator": (
            r"from (\S+) points where it has learnt for (\S+) steps to (\S+) where it has for (\S+)\. "
        ),
        "Whether synthetic images are chosen": r"(\S+) where a baseline must agree with the label",
        "How much the sampler is guided": r"guide its sampler, with (\S+) at a scale of (\S+)\.",
        "How much weight": r"from (\S+) points at `real_weight` (\S+) to (\S+) at (\S+), and falls",
        "How many synthetic": r"from (\S+) at a `synthetic_ratio` of (\S+) to (\S+) at (\S+), as few",
        "How many real images there are": (
            r"noise, (\S+ ± \S+) with (30 %) of the training set and (\S+ ± \S+) with (100 %),"
        ),
    }.items():
        said = re.search(words, text).groups()
        (table,) = re.findall(rf"^### {title}.*?(?=^##)", results, re.MULTILINE | re.DOTALL)
        for difference, point in zip(said[::2], said[1::2] or ["right label"], strict=True):
            (row,) = re.findall(rf"^\| {re.escape(point)} \|.*$", table, re.MULTILINE)
            measured = row.split("|")[4].strip()
            assert (measured if "±" in difference else measured.split()[0]) == difference
    far = [row.split("|")[7].strip() for row in re.findall(r"^\| (?:30|100) % \|.*$", results, re.MULTILINE)]
    assert far == list(re.search(r"cost far-OOD: (\S+ ± \S+) and (\S+ ± \S+\d)", text).groups())


def test_the_table_of_the_readme_is_that_of_the_results():
    rows = re.findall(
        r"^\| (near-OOD|far-OOD|ID) \w+, % \| ([\d.]+) \| ([\d.]+) \| (\S+), p = (0\.\d\d) \|$",
        (ROOT / "README.md").read_text(),
        re.MULTILINE,
    )
    assert [what for what, *_ in rows] == ["near-OOD", "far-OOD", "ID"]
    results = (ROOT / "RESULTS.md").read_text()
    verdict = [line for line in results.splitlines() if line.startswith(("- Near-OOD", "- Far-OOD", "- ID accuracy"))]
    for (_, before, after, gain, p), line in zip(rows, verdict, strict=True):
        assert re.findall(r"\d\d\.\d\d", line)[:2] == [before, after]
        assert gain in line
        assert f"{float(re.search(r'p = ([0-9.]+)', line)[1]):.2f}" == p
    number = re.search(r"mean over (\d+) methods", (ROOT / "README.md").read_text())[1]
    assert f"mean over {number} methods" in verdict[0]
