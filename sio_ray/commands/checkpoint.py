"""`sio-ray checkpoint`: look at classifiers, and bring them from and to OpenOOD."""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sio_ray.commands.set_text import count
from sio_ray.errors import ConfigError
from sio_ray.progress import console

app = typer.Typer(help="Look at trained classifiers, and bring them from and to OpenOOD.", no_args_is_help=True)

CheckpointArgument = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Folder of a trained classifier.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]

#: The one format of others so far.
_FORMATS = ("openood",)


@app.command(epilog="Example:  sio-ray checkpoint show runs/cifar10/train-sio/checkpoint")
def show(checkpoint: CheckpointArgument, json: Json = False, debug: Debug = False) -> None:
    """Say what a checkpoint is: network, classes, pictures, normalisation, and how it was trained."""
    from sio_ray.classifier.checkpoint import load_classifier, read_architecture

    architecture, training = read_architecture(checkpoint)
    classifier = load_classifier(checkpoint)
    described: dict[str, Any] = {
        **architecture.model_dump(mode="json"),
        "num_features": classifier.num_features,
        "num_parameters": sum(parameter.numel() for parameter in classifier.parameters()),
    }
    if json:
        _print_json(described | {"training": training})
        return
    channels, height, width = architecture.image_shape
    names = architecture.class_names
    rows = {
        "network": f"{architecture.network}{'' if architecture.width is None else f' of width {architecture.width}'}",
        "head": architecture.head,
        "features": f"{described['num_features']:,}",
        "parameters": f"{described['num_parameters']:,}",
        "classes": f"{len(names):,}: {', '.join(names[:10])}{', ...' * (len(names) > 10)}",
        "pictures": f"{width}x{height} px, {count(channels, 'channel')}",
        "mean": ", ".join(f"{value:.4f}" for value in architecture.mean),
        "std": ", ".join(f"{value:.4f}" for value in architecture.std),
        **{key: value if isinstance(value, str) else json_format.dumps(value) for key, value in training.items()},
    }
    table = Table.grid(padding=(0, 2))
    for key, value in rows.items():
        table.add_row(Text(key, style="bold"), Text(value, overflow="fold"))
    Console(highlight=False).print(table)


@app.command("export", epilog="Example:  sio-ray checkpoint export CHECKPOINT best.ckpt --format openood")
def export_checkpoint(
    checkpoint: CheckpointArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to write.")],
    format_name: Annotated[str, typer.Option("--format", metavar="NAME", help="openood.")],
    debug: Debug = False,
) -> None:
    """Write a checkpoint as OpenOOD's own network loads it."""
    from sio_ray.classifier.exchange import export_openood

    if format_name not in _FORMATS:
        raise ConfigError("--format", f"among {', '.join(_FORMATS)}", format_name, "choose from these")
    classifier, name = export_openood(checkpoint, file)
    mean, std = (list(map(_short, values)) for values in (classifier.architecture.mean, classifier.architecture.std))
    console.print(
        Text(
            f"wrote {file}: {count(len(classifier.state_dict()), 'tensor')} of OpenOOD's {name} with "
            f"{count(len(classifier.architecture.class_names), 'class', 'classes')}; "
            f"its transform must normalise by mean {mean} and std {std}"
        ),
        soft_wrap=True,
    )


@app.command(
    "import", epilog="Example:  sio-ray checkpoint import best.ckpt c --network resnet18_32px --normalisation cifar10"
)
def import_checkpoint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What OpenOOD wrote, such as best.ckpt.")],
    folder: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="The new folder.")],
    network: Annotated[str, typer.Option(metavar="NAME", help="Our name of the network, such as resnet18_32px.")],
    class_names: Annotated[str | None, typer.Option(metavar="A,B,C", help="Else 0,1,...")] = None,
    normalisation: Annotated[
        str | None, typer.Option(metavar="NAME", help="OpenOOD's: cifar10, cifar100 or imagenet.")
    ] = None,
    mean: Annotated[str | None, typer.Option(metavar="R,G,B", help="What its transform subtracts.")] = None,
    std: Annotated[str | None, typer.Option(metavar="R,G,B", help="What its transform divides by.")] = None,
    debug: Debug = False,
) -> None:
    """Make a checkpoint of what OpenOOD trained; nothing in the file is run."""
    from sio_ray.classifier.exchange import import_openood

    means, stds = _normalisation(normalisation, mean, std)
    classifier = import_openood(
        file,
        folder,
        network=network,
        mean=means,
        std=stds,
        class_names=None if class_names is None else tuple(name.strip() for name in class_names.split(",")),
    )
    architecture = classifier.architecture
    head = "" if architecture.head == "linear" else f" with the head {architecture.head}"
    console.print(
        Text(f"wrote {folder}: {network}{head} for {count(len(architecture.class_names), 'class', 'classes')}"),
        soft_wrap=True,
    )


def _normalisation(name: str | None, mean: str | None, std: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    from sio_ray.classifier.exchange import NORMALISATIONS

    if name is None and mean is not None and std is not None:
        return _numbers("--mean", mean), _numbers("--std", std)
    if name not in NORMALISATIONS or mean is not None or std is not None:
        given = " ".join(key for key, value in (("--mean", mean), ("--std", std)) if value is not None)
        raise ConfigError(
            "--normalisation",
            f"among {', '.join(NORMALISATIONS)}, or left out with --mean and --std given",
            f"{name or 'nothing'} with {given}" if given else name,
            "give what OpenOOD's transform used",
        )
    return NORMALISATIONS[name]


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(option, "numbers with commas between them", text, "give e.g. 0.5,0.5,0.5") from None


def _short(value: float) -> float:
    return round(value, 4)


def _print_json(value: Any) -> None:
    sys.stdout.write(json_format.dumps(value, indent=1) + "\n")
