"""The image sets of a search: drawn where trials need new ones, decoded once, shared by all trials of a node."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from sio_ray.config import Config
from sio_ray.errors import StageError
from sio_ray.imageset.pixel_counts import Statistics, statistics_of
from sio_ray.imageset.storage import Folder
from sio_ray.search.space import Space
from sio_ray.stages.layout import fit_generator_place, generate_place, generated_set_uri
from sio_ray.stages.prepared_sets import PreparedSets
from sio_ray.stages.record import read_record, require
from sio_ray.stages.train import architecture_for
from sio_ray.stages.training_sets import open_training_sets
from sio_ray.training.feeds import streams
from sio_ray.training.shared_sets import SourceSpec, pixel_counts_of, share
from sio_ray.tune.work import TRIALS_FOLDER, PlannedTrial, TrialWork, draws_sets, keeps_networks


class TrialSets:
    """Opens, draws and shares the sets of a search.

    Args:
        config: of the search.
        space: whose fields of `generate` make trials need synthetic sets of their own.

    Attributes:
        draws: whether trials need synthetic sets of their own.
        generate_s: seconds that drawing took.

    Raises:
        StageError: an earlier stage has not run for this config.
        ImageSetError: there is no near-OOD validation set, or a set does not fit the real one.
        ConfigError: see `open_training_sets`.
    """

    def __init__(self, config: Config, space: Space) -> None:
        self.draws = draws_sets(space)
        self._keeps_networks = keeps_networks(space)
        self._base = open_training_sets(config, "tune", with_synthetic=not self.draws)
        self._ood = PreparedSets(config, "tune").ood("val")
        self._shared: dict[SourceSpec, Any] = {}
        self._seen: set[str] = set()
        self.generate_s = 0.0
        if self.draws and config.generate.generator is None:
            require(fit_generator_place(config).folder, "fit-generator", "tune")

    @property
    def num_real(self) -> int:
        """Images of the real training set."""
        return len(self._base.real)

    @property
    def num_synthetic(self) -> int | None:
        """Images of the synthetic set at hand; None where every trial draws its own."""
        return None if self._base.synthetic is None else len(self._base.synthetic)

    @property
    def ood_groups(self) -> set[str]:
        """Groups of the OOD validation sets."""
        return {group for group, _ in self._ood}

    def base_sources(self) -> dict[str, SourceSpec]:
        """The sources of the search's own config, from which follows whether trials stream."""
        return self._base.sources("sio")

    @cached_property
    def _statistics(self) -> Statistics:
        return statistics_of(pixel_counts_of(self._base.real.uri))

    def is_drawn(self, planned: PlannedTrial) -> bool:
        """Whether a trial's synthetic set is there."""
        return not self._draws_for(planned) or read_record(generate_place(planned.config).folder) is not None

    def _draws_for(self, planned: PlannedTrial) -> bool:
        return self.draws and planned.trial.arm == "sio"

    def check(self, planned: PlannedTrial) -> None:
        """See that a trial's synthetic set, where it is there, is of the generator that is at the config's path now.

        Raises:
            StageError: that was replaced, so results of trials are of one generator and those to come of another.
        """
        if not self._draws_for(planned) or not self.is_drawn(planned):
            return
        uri = generated_set_uri(planned.config)
        if uri in self._seen:
            return
        self._seen.add(uri)
        from sio_ray.generate.job import check_sources  # diffusers takes seconds, and few searches draw

        try:
            check_sources(planned.config.generate, Folder(uri))
        except StageError as error:
            trials = planned.config.run_dir / TRIALS_FOLDER
            raise StageError(
                f"{error} Trials have trained on it: if you draw it anew, delete {trials} as well, or what they found "
                "is compared with what others find on another generator's images."
            ) from error

    def draw(self, planned: PlannedTrial) -> None:
        """Draw a trial's synthetic set, unless it is there; trials with the same settings have the same set.

        Raises:
            SioRayError: it cannot be drawn.
        """
        if not self.is_drawn(planned):
            from sio_ray.stages.generate import generate  # likewise

            self.generate_s += generate(planned.config).wall_s

    def work_for(self, planned: PlannedTrial) -> TrialWork:
        """What a trial's process is handed; sets that are not shared yet are decoded now."""
        trial, config, section = planned.trial, planned.config, planned.config.train
        sets = open_training_sets(config, "tune", with_synthetic=trial.arm == "sio")
        sources = sets.sources(trial.arm)
        if trial.arm == "sio" and sets.synthetic is not None:
            sources["synthetic"] = (sets.synthetic.uri, None)  # all of it: one copy for every ratio
        val: SourceSpec = (sets.val.uri, None)
        fit: SourceSpec = (sets.real.uri, config.tune.fit_images if config.tune.fit_images < len(sets.real) else None)
        is_streamed = streams(section, sources)
        ood = {f"{group}/{name}": (str(path), None) for (group, name), path in self._ood.items()}
        wanted: list[SourceSpec] = [val, fit, *ood.values(), *(() if is_streamed else sources.values())]
        shared = self._share(wanted)
        return TrialWork(
            trial=trial,
            section=section,
            # Of this trial, as the search may be over networks or algorithms.
            architecture=architecture_for(section, sets.real.info, self._statistics),
            sources=sources if is_streamed else {name: shared[spec] for name, spec in sources.items()},
            val=shared[val],
            ood={key: shared[spec] for key, spec in ood.items()},
            fit_set=shared[fit],
            num_real=len(sets.real),
            num_synthetic=sets.num_synthetic,
            detectors=config.tune.detectors,
            detector_options=config.judging_options,
            objective=config.tune.objectives[0],
            num_validations=config.tune.num_validations,
            batch_size=config.evaluate.batch_size,
            folder=str(planned.folder),
            parent=str(planned.parent.folder) if planned.parent else None,
            networks=str(planned.networks_folder) if self._keeps_networks else None,
            keeps_state=config.tune.algorithm == "pbt" and trial.phase == "search" and trial.arm == "sio",
        )

    def _share(self, specs: list[SourceSpec]) -> Mapping[SourceSpec, Any]:
        new = {str(number): spec for number, spec in enumerate(dict.fromkeys(specs)) if spec not in self._shared}
        if new:
            self._shared |= {new[name]: shared for name, shared in share(new).items()}
        return self._shared
