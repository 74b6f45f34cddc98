"""The `sio-ray` command: one subcommand per stage, and `run` and `demo` for all of them."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from rich.markup import escape

from sio_ray import __version__
from sio_ray.commands.checkpoint import app as checkpoint_app
from sio_ray.commands.detectors import detectors
from sio_ray.commands.images import app as images_app
from sio_ray.commands.jobs import app as jobs_app
from sio_ray.commands.logs import logs
from sio_ray.commands.quality import quality
from sio_ray.commands.report import report
from sio_ray.commands.status_text import status
from sio_ray.commands.study import study
from sio_ray.commands.submit import submit
from sio_ray.config import Config, load_config, preset_names, to_yaml
from sio_ray.errors import SioRayError
from sio_ray.progress import console

#: Exit codes beside 0: the user's mistake or a failed job, and Ctrl-C.
EXIT_ERROR, EXIT_INTERRUPTED = 2, 130

app = typer.Typer(
    name="sio-ray",
    help="SIO on Ray: train on real and synthetic images, and measure what that does for OOD detection.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(images_app, name="images")
app.add_typer(checkpoint_app, name="checkpoint")
app.add_typer(jobs_app, name="jobs")

ConfigArgument = Annotated[
    str, typer.Argument(metavar="PRESET_OR_YAML", help="Name of a preset, or path of a YAML file.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SECTION.FIELD=VALUE]...", help="Fields to change, e.g. train.real_weight=0.9"),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; an error of ours is one line and exit code 2, as wrong usage is."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with _ray_as_before():
        try:
            app(args=arguments)
        except SioRayError as error:
            if "--debug" in arguments:
                raise
            console.print(f"[bold red]error:[/bold red] {escape(str(error))}", soft_wrap=True)
            sys.exit(EXIT_ERROR)


@contextlib.contextmanager
def _ray_as_before() -> Iterator[None]:
    """Shut Ray down at the end, unless it ran at the beginning."""
    ran = _ray_runs()
    try:
        yield
    finally:
        if not ran and _ray_runs():
            sys.modules["ray"].shutdown()


def _ray_runs() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Keep Ray's words off standard output: it prints there when a worker dies, until it is shut down."""
    with contextlib.redirect_stdout(sys.stderr), _ray_as_before():
        yield


def run_stages(config: Config, stages: Sequence[str]) -> dict[str, Any]:
    """Check a config, then run stages one after the other.

    Returns:
        Stage to its outcome, as JSON values.
    """
    from sio_ray.stages import stage_function
    from sio_ray.stages.preflight import check

    check(config, stages)
    return {stage: stage_function(stage)(config).model_dump(mode="json") for stage in stages}


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def _run(config: str, overrides: list[str] | None, as_json: bool, stages: Sequence[str] | None = None) -> Config:
    loaded = load_config(config, overrides or ())
    try:
        with _quiet_stdout():
            try:
                from sio_ray.stages.layout import run_order  # takes seconds, in which Ctrl-C may come too

                stages = stages or run_order(loaded)
                outcomes = run_stages(loaded, stages)
            except KeyboardInterrupt:
                console.print("interrupted; run the same command again to continue where it stopped.")
                raise
    except KeyboardInterrupt:
        # Threads that waited for Ray would keep the interpreter; nothing is half-written, so leave at once.
        os._exit(EXIT_INTERRUPTED)
    if as_json:
        _print_json(outcomes if len(stages) > 1 else outcomes[stages[0]])
    return loaded


@app.command(epilog="Example:  sio-ray prepare digits prepare.seed=1")
def prepare(config: ConfigArgument, overrides: Overrides = None, json: Json = False, debug: Debug = False) -> None:
    """Write real images as image sets: ID train/val/test, near- and far-OOD, outliers."""
    _run(config, overrides, json, ["prepare"])


@app.command("fit-generator", epilog="Example:  sio-ray fit-generator digits fit_generator.num_steps=2000")
def fit_generator(
    config: ConfigArgument, overrides: Overrides = None, json: Json = False, debug: Debug = False
) -> None:
    """Fit a class-conditional diffusion model to the real training set, under Ray Train."""
    _run(config, overrides, json, ["fit-generator"])


@app.command(epilog="Example:  sio-ray generate digits generate.synthetic_ratio=2 generate.num_actors=8")
def generate(config: ConfigArgument, overrides: Overrides = None, json: Json = False, debug: Debug = False) -> None:
    """Draw the synthetic image set with a pool of Ray actors; run again to draw what is missing."""
    _run(config, overrides, json, ["generate"])


@app.command(epilog="Example:  sio-ray train digits train.real_weight=0.9 train.seeds=[0,1,2]")
def train(config: ConfigArgument, overrides: Overrides = None, json: Json = False, debug: Debug = False) -> None:
    """Train the baseline and SIO, once per seed, under Ray Train."""
    _run(config, overrides, json, ["train"])


@app.command(epilog="Example:  sio-ray evaluate digits evaluate.detectors=[energy,knn]")
def evaluate(config: ConfigArgument, overrides: Overrides = None, json: Json = False, debug: Debug = False) -> None:
    """Score every checkpoint with every OOD detector, by the OpenOOD protocol."""
    loaded = _run(config, overrides, json, ["evaluate"])
    _print_table(loaded)


@app.command(epilog="Example:  sio-ray tune digits --space tune_spaces/weight_and_ratio.py --num-trials 16")
def tune(
    config: ConfigArgument,
    overrides: Overrides = None,
    space: Annotated[str | None, typer.Option("--space", help="File with the search space; tune.space.")] = None,
    num_trials: Annotated[int | None, typer.Option("--num-trials", help="How many; tune.num_trials.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Search training settings against OOD AUROC on validation sets; run again to continue."""
    options = {"tune.space": space, "tune.num_trials": num_trials}
    given = [f"{field}={value}" for field, value in options.items() if value is not None]
    _run(config, [*(overrides or ()), *given], json, ["tune"])


app.command(epilog="Example:  sio-ray report digits report.detector=knn --csv --latex")(report)


@app.command(epilog="Example:  sio-ray run digits output_dir=/tmp/runs")
def run(config: ConfigArgument, overrides: Overrides = None, json: Json = False, debug: Debug = False) -> None:
    """Run all stages in order, from prepare to report; what is done already is kept."""
    loaded = _run(config, overrides, json)
    _print_table(loaded)
    _print_report_path(loaded)


@app.command(epilog="Example:  sio-ray demo --json")
def demo(overrides: Overrides = None, json: Json = False, debug: Debug = False) -> None:
    """Run the whole method on scikit-learn's digits, in minutes on two cores."""
    run("digits", overrides, json, debug)


app.command(epilog="Example:  sio-ray detectors knn")(detectors)


app.command(epilog="Example:  sio-ray quality SET --reference id/val --train id/train")(quality)


app.command(epilog="Example:  sio-ray status runs/digits")(status)


app.command(epilog="Example:  sio-ray logs runs/digits --level warning")(logs)


app.command(epilog="Example:  sio-ray submit run digits output_dir=/shared/runs --address http://HEAD:8265")(submit)


app.command(epilog="Example:  sio-ray study studies/fashion_mnist.yaml")(study)


@app.command(epilog="Example:  sio-ray plan digits generate.synthetic_ratio=10 --calibrate")
def plan(
    config: ConfigArgument,
    overrides: Overrides = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Measure a few batches on this cluster.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what `generate` will take: shards, bytes, images per class; with --calibrate time and GPU-hours."""
    from sio_ray.commands.plan import as_json, make_plan, print_plan

    with _quiet_stdout():
        estimate = make_plan(load_config(config, overrides or ()), calibrate=calibrate)
    print_plan(estimate)
    if json:
        _print_json(as_json(estimate))


@app.command("config", epilog="Example:  sio-ray config digits > mine.yaml")
def show_config(config: ConfigArgument, overrides: Overrides = None, debug: Debug = False) -> None:
    """Print a whole config as YAML, as a start for your own."""
    sys.stdout.write(to_yaml(load_config(config, overrides or ())))


@app.command(epilog="Example:  sio-ray version")
def version(debug: Debug = False) -> None:
    """Print the version and the presets."""
    sys.stdout.write(f"sio_ray {__version__}; presets: {', '.join(preset_names())}\n")


def _print_table(config: Config) -> None:
    from sio_ray.report.text_table import print_table
    from sio_ray.stages.report import gather

    print_table(gather(config), console)


def _print_report_path(config: Config) -> None:
    from sio_ray.stages.report import REPORT_NAME

    console.print(f"\nreport: {os.path.relpath(config.run_dir / REPORT_NAME)}  (open it in a browser)")


if __name__ == "__main__":
    main()
