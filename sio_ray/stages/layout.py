"""Where every stage's output lives: a folder named by the fingerprint of all that decides what is in it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sio_ray.config import STAGES, Config
from sio_ray.evaluation.references import paths_in
from sio_ray.provenance import fingerprint
from sio_ray.redaction import redact
from sio_ray.seeding import derive_seed
from sio_ray.stages.trainings import trainings

Arm = Literal["baseline", "sio"]

#: The algorithm that no name of a run mentions.
_PLAIN = "cross_entropy"

#: Raised when a change of code makes old outputs wrong.
_GENERATION = 3

#: The same, of networks that one algorithm has trained.
_ALGORITHM_GENERATIONS = {"vos": 2}

#: What a search leaves in its folder for people, and for `run`.
SEARCH_PAGE_NAME, BEST_CONFIG_NAME = "search.html", "best.yaml"


@dataclass(frozen=True)
class Place:
    """An output: what decides it, and the folder that follows from that.

    Attributes:
        identity: JSON values, among them the fingerprints of the inputs.
        folder: absolute.
    """

    identity: dict[str, Any]
    folder: Path

    @property
    def fingerprint(self) -> str:
        """Hash of the identity."""
        return fingerprint(self.identity)


@dataclass(frozen=True)
class Run:
    """One training run: a classifier, or one member of an ensemble.

    Attributes:
        arm: `baseline` (real images alone) or `sio`.
        algorithm: that trains it.
        seed: as the config names it.
        member: of the ensemble, from 0.
        place: its output.
    """

    arm: Arm
    algorithm: str
    seed: int
    member: int
    place: Place

    @property
    def training_seed(self) -> int:
        """Of initialisation, batches and augmentation; the first member trains as a classifier by itself would."""
        return derive_seed("member", self.seed, self.member) if self.member else self.seed

    @property
    def name(self) -> str:
        """Such as `sio, seed 0`, or `sio, vos, seed 0`."""
        return run_name(self.arm, self.algorithm, self.seed, self.member)


def run_name(arm: str, algorithm: str, seed: int | str, member: int | str) -> str:
    """How a training run is called on the console; cross-entropy and the first member go without saying."""
    parts = [arm, *([] if algorithm == _PLAIN else [algorithm]), f"seed {seed}"]
    return ", ".join([*parts, f"member {member}"] if member else parts)


def place_for(config: Config, name: str, identity: dict[str, Any]) -> Place:
    """The place of an output of this name that these values decide."""
    identity = {"stage": name, "generation": _GENERATION, **identity}
    return Place(identity, config.run_dir / f"{name}-{fingerprint(identity)}")


def prepare_place(config: Config) -> Place:
    """Of the real image sets."""
    return place_for(config, "prepare", config.prepare.identity())


def fit_generator_place(config: Config) -> Place:
    """Of the generator."""
    identity = config.fit_generator.identity()
    if config.fit_generator.kind == "gaussian":  # fields of the other kind decide nothing
        identity = {name: identity[name] for name in ("kind", "gaussian_rank")}
    else:
        del identity["gaussian_rank"]
    return place_for(config, "fit-generator", {"prepare": prepare_place(config).fingerprint, **identity})


def fitted_generator(config: Config) -> Path:
    """The diffusers folder that fit-generator writes."""
    return fit_generator_place(config).folder / "model"


def generate_place(config: Config) -> Place:
    """Of the synthetic image set."""
    section = config.generate
    identity = section.identity()
    if section.curation.classifier is None:
        del identity["curation"]
    else:
        identity["curation"]["classifier"] = str(section.curation.classifier.absolute())
    if section.output is not None:
        identity["output"] = redact(_absolute(section.output))
    if section.generator is None:
        identity["generator"] = fit_generator_place(config).fingerprint
    elif Path(section.generator).exists():
        identity["generator"] = str(Path(section.generator).absolute())
    if not section.stands_alone:
        identity["prepare"] = prepare_place(config).fingerprint
    return place_for(config, "generate", identity)


#: What only SIO runs depend on, so a baseline is trained once for all of them.
_SIO_FIELDS = (
    *("real_weight", "real_weight_ramp", "synthetic_ratio", "synthetic_ratio_ramp"),
    *("real_batch_share", "synthetic_set"),
)


def train_runs(config: Config) -> list[Run]:
    """All training runs of a config, each once; a baseline does not depend on anything synthetic, so it is shared."""
    runs = (run for training in trainings(config) for run in _runs_of(training.config))
    return list({run.place.folder: run for run in runs}.values())


def _runs_of(config: Config) -> Iterator[Run]:
    section = config.train
    algorithm = "" if section.algorithm == _PLAIN else f"-{section.algorithm}"
    for arm, seed, member in itertools.product(section.arms, section.seeds, range(section.ensemble_size)):
        identity = {**run_identity(config, arm), "seed": seed}
        name = f"train-{arm}{algorithm}-seed{seed}"
        if member:
            identity["member"] = member
            name += f"-member{member}"
        yield Run(arm, section.algorithm, seed, member, place_for(config, name, identity))


def run_identity(config: Config, arm: Arm) -> dict[str, Any]:
    """What decides a training run of an arm, but for its seed."""
    recipe = training_recipe(config)
    sio = {name: recipe.pop(name) for name in _SIO_FIELDS}
    identity = {"prepare": prepare_place(config).fingerprint, **recipe, "arm": arm}
    if config.train.algorithm in _ALGORITHM_GENERATIONS:
        identity["algorithm_generation"] = _ALGORITHM_GENERATIONS[config.train.algorithm]
    if arm == "baseline":
        return identity
    sio["real_batch_share"] = config.train.batch_share
    del sio["synthetic_set"]
    return {**identity, **sio, "synthetic": synthetic_identity(config)}


def training_recipe(config: Config) -> dict[str, Any]:
    """The fields of `train` that decide a run, without those that another field makes idle."""
    section = config.train
    recipe = section.identity()
    idle = {"arms", "seeds", "ensemble_size", "keep"}
    idle.add("num_steps" if section.num_epochs is not None else "num_epochs")
    if section.schedule != "step":
        idle |= {"step_milestones", "step_factor"}
    if section.resized_crop:
        idle.add("crop_padding_px")
    if section.feed != "auto":
        idle.add("memory_limit_gb")
    if section.feed == "memory":
        idle.add("shuffle_window_images")
    for field in ("synthetic_set", "outlier_set", "mixing_set"):
        if recipe[field] is not None:
            recipe[field] = redact(_absolute(recipe[field]))
    return {name: value for name, value in recipe.items() if name not in idle}


def synthetic_identity(config: Config) -> str:
    """What training on the synthetic set depends on: the given set's path, or all that decides what generate writes."""
    return redact(synthetic_set_uri(config)) if config.train.synthetic_set else generate_place(config).fingerprint


def evaluate_place(config: Config) -> Place:
    """Of metrics and scores; where methods are given, those of all trainings together."""
    if config.methods:
        found = [(training.methods, evaluate_place(training.config).fingerprint) for training in trainings(config)]
        parts = {name: [of, detector] for methods, of in found for detector, name in methods.items()}
        return place_for(config, "evaluate", {"methods": [[name, *parts[name]] for name in config.method_names]})
    section = config.evaluate
    identity = section.identity()
    for field in ("checkpoints", "outputs"):
        given = identity.pop(field)
        if given:  # as trained ones decide nothing then
            named = paths_in if field == "checkpoints" else lambda folder: [Path(folder)]
            identity[field] = {
                arm: [_state_of(reference, named(reference)) for reference in references]
                for arm, references in given.items()
            }
    if "all" in section.detectors:
        from sio_ray.ood.detectors import DETECTORS  # which loads torch

        identity["detectors"] = list(DETECTORS)
    if not (section.checkpoints or section.outputs):
        identity["runs"] = [run.place.fingerprint for run in train_runs(config)]
        identity |= {"ensemble_size": config.train.ensemble_size, "keep": config.train.keep}
    elif section.checkpoints:
        identity["prepare"] = prepare_place(config).fingerprint
    return place_for(config, "evaluate", identity)


def _state_of(reference: str, paths: Sequence[Path]) -> list[Any]:
    """A reference with the sizes and times of the local files that it names, so that another content is noticed."""
    files = [file for path in paths for file in sorted([path, *path.rglob("*")])]
    return [
        redact(reference),
        [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()],
    ]


def report_place(config: Config, searches: Sequence[str] = ()) -> Place:
    """Of the HTML page.

    Args:
        config: whose evaluation it shows.
        searches: folders of the searches that it names; a later one makes another page.
    """
    identity = {"evaluate": evaluate_place(config).fingerprint, **config.report.identity()}
    return place_for(config, "report", {**identity, "searches": list(searches)} if searches else identity)


def run_order(config: Config) -> tuple[str, ...]:
    """The stages that `run` goes through: tune is a search around them, and what is given need not be made."""
    skipped = {"tune"}
    if config.evaluate.checkpoints or config.evaluate.outputs:
        skipped |= {"fit-generator", "generate", "train"}
    if config.evaluate.outputs:
        skipped |= {"prepare"}
    if "sio" not in config.train.arms or config.train.synthetic_set is not None:
        skipped |= {"fit-generator", "generate"}
    elif config.generate.generator is not None:
        skipped |= {"fit-generator"}
    return tuple(stage for stage in STAGES if stage not in skipped)


def synthetic_set_uri(config: Config) -> str:
    """The synthetic image set that training uses: the given one, or what generate wrote."""
    given = config.train.synthetic_set
    return generated_set_uri(config) if given is None else _absolute(given)


def generated_set_uri(config: Config) -> str:
    """The image set that generate writes."""
    output = config.generate.output
    return str(generate_place(config).folder / "images") if output is None else _absolute(output)


def _absolute(uri: str) -> str:
    """Workers have another working directory."""
    return uri if "://" in uri else str(Path(uri).absolute())
