"""The config: one section per stage; the largest ones have modules of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from sio_ray.config.evaluate_section import EvaluateConfig
from sio_ray.config.generator_sections import FitGeneratorConfig, GenerateConfig
from sio_ray.config.prepare_section import PrepareConfig
from sio_ray.config.section import Section
from sio_ray.config.train_section import TrainConfig
from sio_ray.config.tune_section import TuneConfig
from sio_ray.errors import ConfigError
from sio_ray.methods import method_names

#: Every stage, in the order data flows. Each has a section of the config of the same name, with `_` for `-`.
STAGES = ("prepare", "fit-generator", "generate", "train", "evaluate", "tune", "report")


#: Fields that methods take the place of, by section.
_DECIDED_BY_METHODS = (
    ("train", "algorithm"),
    ("train", "algorithm_options"),
    ("train", "ensemble_size"),
    ("evaluate", "detectors"),
    ("evaluate", "checkpoints"),
    ("evaluate", "outputs"),
)


class ReportConfig(Section):
    """What the HTML page shows.

    Attributes:
        title: heading of the page; made from the config's name if not given.
        images_per_class: columns of the grid of real beside synthetic images.
        detector: whose ROC curves and score histograms are drawn.
    """

    title: str | None = None
    images_per_class: int = Field(10, ge=1, le=40)
    detector: str = "energy"


class ClusterConfig(Section):
    """Which Ray cluster does the work; nothing here changes any result.

    Attributes:
        address: of a running cluster (`auto`, `ray://...`); a local one is started if not given.
        num_cpus: logical CPU cores of a local one; all of the machine's if not given.
        num_gpus: logical GPUs of a local one; all of the machine's if not given.
        dashboard: start Ray's dashboard with a local one.
        log_json: write every event of a run to standard error too, a line of JSON each, for those who collect logs.
    """

    address: str | None = None
    num_cpus: int | None = Field(None, ge=1)
    num_gpus: int | None = Field(None, ge=0)
    dashboard: bool = False
    log_json: bool = False


class Config(Section):
    """The whole config: one section per stage; a path may begin with `~`, the home folder.

    Attributes:
        name: of the experiment; outputs go to `output_dir/name`.
        output_dir: folder of all experiments; on a cluster, one that all nodes share.
        methods: rows of the SIO paper's table, keys of `sio_ray.methods.METHODS`, or `paper` for its 18. They say what
            `train` and `evaluate` do, in place of `train.algorithm`, `train.ensemble_size` and `evaluate.detectors`;
            methods of one training share its networks.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    output_dir: Path = Path("runs")
    methods: tuple[str, ...] = ()
    prepare: PrepareConfig = PrepareConfig()
    fit_generator: FitGeneratorConfig = FitGeneratorConfig()
    generate: GenerateConfig = GenerateConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tune: TuneConfig = TuneConfig()
    report: ReportConfig = ReportConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _check_methods(self) -> Self:
        method_names(self.methods)
        for section, field in _DECIDED_BY_METHODS if self.methods else ():
            value = getattr(getattr(self, section), field)
            if value != type(getattr(self, section)).model_fields[field].get_default(call_default_factory=True):
                rule = "left out while methods are given"
                raise ConfigError(
                    f"{section}.{field}", rule, value, "name what is wanted in methods, or set methods=[]"
                )
        return self

    @property
    def method_names(self) -> tuple[str, ...]:
        """The methods, with `paper` resolved, in the table's order."""
        return method_names(self.methods)

    @property
    def judging_options(self) -> dict[str, dict[str, Any]]:
        """Options of the detectors that judge trials of a search, among those of `evaluate`."""
        options = self.evaluate.detector_options
        return {name: options[name] for name in self.tune.detectors if name in options}

    @property
    def run_dir(self) -> Path:
        """Absolute folder of this experiment; workers have another working directory."""
        return (self.output_dir / self.name).absolute()
