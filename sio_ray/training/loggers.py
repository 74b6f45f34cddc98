"""Where else a training curve may go: TensorBoard, MLflow, Weights & Biases; the last two by Ray's integrations."""

from __future__ import annotations

import importlib.util
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sio_ray.errors import ConfigError
from sio_ray.redaction import redact_values
from sio_ray.training.loop import Point

#: Takes one point of the curve.
Logger = Callable[[Point], None]

#: Name in the config to the package that it needs, which pip calls the same.
_PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}

#: Below the run's folder; and beside it, as one database holds all runs.
TENSORBOARD_NAME, MLFLOW_NAME = "tensorboard", "mlflow.db"


def check_loggers(names: Sequence[str], field: str = "train.loggers") -> None:
    """Refuse loggers whose package is missing.

    Raises:
        ConfigError: names it.
    """
    for name in names:
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            remedy = f"pip install {_PACKAGES[name]} on every node, or leave it out"
            raise ConfigError(field, "of packages that are installed", name, remedy)


@contextmanager
def open_loggers(
    names: Sequence[str], *, experiment: str, run: str, folder: Path, params: dict[str, Any]
) -> Iterator[Logger]:
    """One logger for all that are asked for; used in the first worker.

    A run that is continued goes on in the same TensorBoard folder and the same Weights & Biases run; MLflow shows the
    rest as a run of its own under the same name.

    Args:
        names: of the config.
        experiment: what groups runs: MLflow's experiment, Weights & Biases' project.
        run: name of the run.
        folder: of the run.
        params: what to show beside it.
    """
    openers = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}
    params = redact_values(params)
    with ExitStack() as stack:
        loggers = [stack.enter_context(openers[name](experiment, run, folder, params)) for name in names]

        def log(point: Point) -> None:
            for logger in loggers:
                logger(point)

        yield log


@contextmanager
def _tensorboard(experiment: str, run: str, folder: Path, params: dict[str, Any]) -> Iterator[Logger]:
    from tensorboardX import SummaryWriter

    # Files of an earlier process of this run stay, and TensorBoard shows them as one; by its own names, files of the
    # same second would overwrite each other.
    suffix = f".{uuid.uuid4().hex[:8]}"
    with SummaryWriter(str(folder / TENSORBOARD_NAME), flush_secs=1, filename_suffix=suffix) as writer:

        def log(point: Point) -> None:
            for name, value in _values(point).items():
                writer.add_scalar(name, value, int(point["step"]))

        yield log


@contextmanager
def _mlflow(experiment: str, run: str, folder: Path, params: dict[str, Any]) -> Iterator[Logger]:
    from ray.air.integrations.mlflow import setup_mlflow

    mlflow = setup_mlflow(
        params,
        # Else MLflow would make a database in the worker's folder, where nobody looks.
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder.parent / MLFLOW_NAME}"),
        experiment_name=experiment,
        run_name=run,
        create_experiment_if_not_exists=True,
    )
    try:
        yield lambda point: mlflow.log_metrics(_values(point), step=int(point["step"]))
    finally:
        mlflow.end_run()


@contextmanager
def _wandb(experiment: str, run: str, folder: Path, params: dict[str, Any]) -> Iterator[Logger]:
    from ray.air.integrations.wandb import setup_wandb

    # The key comes from WANDB_API_KEY or `wandb login`; WANDB_MODE=offline needs none.
    session = setup_wandb(params, project=experiment, name=run, id=folder.name, resume="allow", dir=str(folder))
    try:
        yield lambda point: session.log(_values(point), step=int(point["step"]), commit=True)
    finally:
        session.finish()


def _values(point: Point) -> dict[str, float]:
    return {name: value for name, value in point.items() if name != "step"}
