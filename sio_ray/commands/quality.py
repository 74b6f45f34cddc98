"""`sio-ray quality`: measure a synthetic image set against a real one, before anybody trains on it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sio_ray.errors import ResourceError
from sio_ray.progress import console, progress_bars
from sio_ray.redaction import redact, redact_values

if TYPE_CHECKING:
    from rich.table import Table

    from sio_ray.quality.measure import Measures, Quality

JSON_NAME, PICTURE_NAME = "quality.json", "quality.png"

#: A terminal shows so many classes, the worst; the JSON has all.
_MAX_CLASSES = 20


def quality(
    synthetic: Annotated[str, typer.Argument(metavar="SET", help="Path or URI of the synthetic image set.")],
    reference: Annotated[str, typer.Option(metavar="SET", help="Real set to compare with; best id/val.")],
    classifier: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Checkpoint trained on real pictures alone, as judge.")
    ] = None,
    train: Annotated[
        str | None, typer.Option(metavar="SET", help="The generator's training set, to find copies of its pictures.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Only the first N synthetic pictures (balanced over classes).")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the result; quality-<name of SET> if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Measure how good a synthetic image set is: labels, fidelity, variety, copies; overall and per class."""
    import joblib  # type: ignore[import-untyped]
    import torch

    from sio_ray.classifier.checkpoint import load_classifier
    from sio_ray.cluster import limit_threads
    from sio_ray.imageset import ImageSet
    from sio_ray.imageset.storage import Folder
    from sio_ray.provenance import machine, versions
    from sio_ray.quality.measure import check_inputs, measure
    from sio_ray.quality.plot import draw
    from sio_ray.quality.verdict import verdict

    sets = ImageSet(synthetic), ImageSet(reference)
    train_set = None if train is None else ImageSet(train)
    network = None if classifier is None else load_classifier(classifier)
    check_inputs(*sets, network, train_set, limit)
    folder = output or Path(f"quality-{_set_name(redact(synthetic))}")
    _make(folder)
    # In a container, torch sees the cores of the machine; joblib knows how many of them may be used.
    limit_threads(min(torch.get_num_threads(), joblib.cpu_count()))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with progress_bars() as bars:
        measured, nearest = measure(*sets, classifier=network, train=train_set, limit=limit, device=device, bars=bars)
    sentence = verdict(measured)
    result = {
        "synthetic_set": synthetic,
        "reference_set": reference,
        "train_set": train,
        "classifier": None if classifier is None else str(classifier),
        "device": device,
        "machine": machine(),
        "versions": versions(),
        "verdict": sentence,
        **asdict(measured),
    }
    text = json.dumps(redact_values(result), indent=1, allow_nan=False) + "\n"
    storage = Folder(str(folder))
    storage.write_bytes(PICTURE_NAME, draw(measured, nearest))
    storage.write_bytes(JSON_NAME, text.encode())
    _print(measured, sentence, device, folder)
    if as_json:
        sys.stdout.write(text)


def _set_name(uri: str) -> str:
    """Name of a set: its folder, or the one above for those of `sio-ray generate`, which are all called `images`."""
    *above, name = uri.rstrip("/").split("/")
    return above[-1] if name == "images" and above and above[-1] not in ("", ".", "..") else name


def _make(folder: Path) -> None:
    """Make the output folder before the work, so that a long one does not end in vain."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"--output must be a folder that can be written, got {str(folder)!r} ({error}); give another."
        ) from error


def _print(measured: Quality, sentence: str, device: str, folder: Path) -> None:
    from rich.text import Text

    overall = measured.overall
    console.print(f"{overall.num_synthetic:,} synthetic pictures, {overall.num_reference:,} real ones, on {device}\n")
    console.print(_table(measured))
    console.print()
    for line in _footnotes(measured):
        console.print(Text(line))
    console.print(Text(f"\n{sentence}", style="bold"))
    console.print(f"\n{folder / PICTURE_NAME}, {folder / JSON_NAME}", soft_wrap=True)


#: Heading, number, and how it is written.
_COLUMNS = (
    ("labels\n%", "agreement", lambda value: f"{100 * value:.1f}"),
    ("confi-\ndence", "confidence", lambda value: f"{100 * value:.1f}"),
    ("preci-\nsion", "precision", "{:.2f}".format),
    ("recall\n", "recall", "{:.2f}".format),
    ("den-\nsity", "density", "{:.2f}".format),
    ("cover-\nage", "coverage", "{:.2f}".format),
    ("diver-\nsity", "diversity", "{:.2f}".format),
    ("Fre-\nchet", "frechet_distance", "{:.3g}".format),
    ("dis-\ntance", "relative_distance", "{:.2f}".format),
    ("copies\n", "num_copies", "{:,d}".format),
)


def _table(measured: Quality) -> Table:
    """One row per class, then the whole set, then the yardstick; only columns that were measured."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    worst = sorted(measured.classes, key=_badness)[-_MAX_CLASSES:]
    classes = [row for row in measured.classes if row in worst]
    totals = [measured.overall] if measured.real.labels is None else [measured.overall, measured.real]
    columns = [column for column in _COLUMNS if column[1] in measured.overall.numbers()]
    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("class", max_width=11, no_wrap=True, overflow="ellipsis")
    for heading, *_ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in (*classes, *totals):
        if row is measured.overall:
            table.add_section()
        numbers = row.numbers()
        cells = [written(numbers[field]) if field in numbers else "-" for _, field, written in columns]
        table.add_row(Text(row.name), *cells, style=None if row in classes else "bold")
    return table


def _badness(row: Measures) -> tuple[float, int]:
    return (-row.labels.agreement if row.labels else -2.0, row.memorisation.num_copies if row.memorisation else 0)


def _footnotes(measured: Quality) -> list[str]:
    overall, notes = measured.overall, []
    if len(measured.classes) > _MAX_CLASSES:
        worst = "of lowest agreement" if overall.labels else "with most copies"
        notes.append(f"The {_MAX_CLASSES} classes {worst}; {JSON_NAME} has all {len(measured.classes)}.")
    if overall.labels is not None:
        notes.append("Row real: the labels of the reference, and one random half of it against the other.")
        confusion = overall.labels.confusion
        if confusion is not None:
            share = f"{100 * confusion.share:.1f} % of its pictures"
            notes.append(f"Most frequent mistake: {confusion.label} taken for {confusion.predicted}, {share}.")
    else:
        notes.append("No --classifier, so labels, fidelity and variety were not measured.")
    if overall.memorisation is not None:
        notes.append(
            f"Distance: median to the nearest training picture, of {overall.num_compared:,} synthetic pictures over "
            f"that of {measured.num_held_out_compared:,} real ones."
        )
    else:
        notes.append("No --train, so copies of training pictures were not looked for.")
    return notes
