"""Every study that ships is valid at every point, and the README runs one of them."""

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
