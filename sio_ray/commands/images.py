"""`sio-ray images`: look at image sets, check them, and bring them from and to other formats."""

from __future__ import annotations

import io
import json as json_format
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from sio_ray.commands.set_text import count, details, in_bytes, in_px, overview, plain_table
from sio_ray.errors import ConfigError
from sio_ray.progress import console, progress_bars
from sio_ray.redaction import redact, redact_values

#: Exit code of a check that finds something; 2 stays for the user's mistakes.
EXIT_BAD = 1

#: A sheet with more classes would be too tall to look at.
_MAX_CLASSES = 24
#: Rows of the sheet of a set without classes.
_OOD_ROWS = 8

app = typer.Typer(
    help="Look at image sets, check them, and bring them from and to other formats.", no_args_is_help=True
)

SetArgument = Annotated[str, typer.Argument(metavar="SET", help="Path or URI of an image set.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]


@app.command("ls", epilog="Example:  sio-ray images ls runs/digits")
def list_sets(
    sets: Annotated[list[str], typer.Argument(metavar="SET...", help="Image sets, or folders that hold some.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what image sets are: images, classes, sizes, and where they come from."""
    from sio_ray.imageset.summary import summarize_below

    found = [summarize_below(uri) for uri in sets]
    if json:
        _print_json([summary.model_dump(mode="json") for summaries in found for summary in summaries.values()])
        return
    for summaries in found:
        _out().print(details(summaries[""]) if list(summaries) == [""] else overview(summaries))


@app.command(epilog="Example:  sio-ray images show runs/digits/synthetic --per-class 20")
def show(
    uri: SetArgument,
    per_class: Annotated[int, typer.Option(min=1, metavar="N", help="Pictures of each class.")] = 10,
    classes: Annotated[str | None, typer.Option(metavar="A,B,C", help="Only these; else the first 24.")] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the choice of pictures.")] = 0,
    output: Annotated[Path, typer.Option(metavar="PNG", help="Where to write the sheet.")] = Path("sheet.png"),
    debug: Debug = False,
) -> None:
    """Draw a contact sheet: a row of pictures for each class."""
    from sio_ray.imageset import ImageSet
    from sio_ray.imageset.contact_sheet import contact_sheet
    from sio_ray.imageset.sample import sample_pictures
    from sio_ray.imageset.storage import Folder

    image_set = ImageSet(uri)
    names = image_set.info.class_names
    if names:
        labels = _chosen_labels(names, classes)
        sampled = sample_pictures(image_set, dict.fromkeys(labels, per_class), seed)
        rows = [(names[label], sampled[label]) for label in labels]
    elif classes is not None:
        raise ConfigError("--classes", "left out for a set without classes", classes, "leave it out")
    else:
        pictures = sample_pictures(image_set, {-1: per_class * _OOD_ROWS}, seed)[-1]
        rows = [("", pictures[start : start + per_class]) for start in range(0, len(pictures), per_class)]
    buffer = io.BytesIO()
    contact_sheet(rows).save(buffer, format="PNG")
    Folder(str(output.parent)).write_bytes(output.name, buffer.getvalue())
    left_out = len(names) - len(rows) if names and classes is None else 0
    note = f"; {count(left_out, 'more class', 'more classes')}, choose by --classes" if left_out else ""
    num_pictures = sum(len(pictures) for _, pictures in rows)
    console.print(
        Text(f"wrote {output}: {count(num_pictures, 'picture')} of {in_px(image_set.info)}{note}"), soft_wrap=True
    )


@app.command(epilog="Example:  sio-ray images head runs/digits/id/train -n 5")
def head(
    uri: SetArgument,
    num_rows: Annotated[int, typer.Option("-n", min=1, metavar="N", help="Rows to print.")] = 10,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Print the first rows of a set, without the pixels."""
    from sio_ray.imageset import ImageSet
    from sio_ray.imageset.sample import first_rows

    rows = first_rows(ImageSet(uri), num_rows)
    if json:
        _print_json(rows)
        return
    table = plain_table(
        "image_id", "label", "class", "format", "size, px", "bytes", "path", left=("class", "format", "path")
    )
    for row in rows:
        size = f"{row['width_px']}x{row['height_px']}"
        cells = (row["image_id"], row["label"], row["class"], row["format"], size, f"{row['bytes']:,}", row["path"])
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in cells))
    _out().print(table)


@app.command(epilog="Example:  sio-ray images verify s3://bucket/synthetic")
def verify(
    uri: SetArgument,
    workers: Annotated[int | None, typer.Option(min=1, metavar="N", help="Processes; else as many as cores.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check every byte of a set against its manifest; exit code 1 if anything is bad."""
    from sio_ray.imageset.summary import UnfinishedSet, summarize
    from sio_ray.imageset.verify import verify_image_set

    summary = summarize(uri)
    if isinstance(summary, UnfinishedSet):
        if json:
            _print_json({"ok": False, **summary.model_dump()})
        else:
            _out().print(details(summary))
        raise typer.Exit(EXIT_BAD)
    with _bar("checking", "shards") as on_shard:
        verdict = verify_image_set(uri, num_workers=workers, on_shard=on_shard)
    if json:
        _print_json({"uri": uri, "ok": verdict.ok, **vars(verdict)})
    else:
        out = _out()
        for name, reason in verdict.bad_shards.items():
            out.print(Text.assemble((f"{name} ", "bold"), reason), soft_wrap=True)
        for problem in verdict.problems:
            out.print(Text(problem), soft_wrap=True)
        for name in verdict.leftovers:
            out.print(Text(f"note: {name} was left by a killed writer; delete it"), soft_wrap=True)
        what = (
            f"{count(verdict.num_images, 'image')} in {count(verdict.num_shards, 'shard')}, "
            f"{in_bytes(verdict.num_bytes)}, checked in {verdict.wall_s:.1f} s"
        )
        bad = f"bad: {count(len(verdict.bad_shards), 'shard')}, {count(len(verdict.problems), 'other problem')} of "
        out.print(Text.assemble(("ok: ", "green") if verdict.ok else (bad, "bold red"), what), soft_wrap=True)
    if not verdict.ok:
        raise typer.Exit(EXIT_BAD)


@app.command("import", epilog="Example:  sio-ray images import pictures set --format image-folder --size 32")
def import_set(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What to read; for torchvision, its name there.")],
    dest: Annotated[str, typer.Argument(metavar="DEST", help="Path or URI of the new image set.")],
    format_name: Annotated[
        str, typer.Option("--format", metavar="NAME", help="npy, image-folder, openood or torchvision.")
    ],
    size: Annotated[int | None, typer.Option(min=1, metavar="PX", help="Resize and cut all to this square.")] = None,
    grey: Annotated[bool | None, typer.Option("--grey/--rgb", help="Convert all; else as the first is.")] = None,
    class_names: Annotated[str | None, typer.Option(metavar="A,B,C", help="Else the format's, or 0,1,...")] = None,
    root: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the pictures of a list, or torchvision's data, are.")
    ] = None,
    split: Annotated[str | None, typer.Option(metavar="NAME", help="Of a torchvision data set; else train.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Let torchvision fetch it.")] = False,
    images_per_shard: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Else by the size of the pictures.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Make an image set of other people's pictures."""
    from sio_ray.imageset.exchange import import_images

    try:
        with _bar("importing", "images") as on_images:
            manifest = import_images(
                format_name,
                source,
                dest,
                images_per_shard=images_per_shard,
                on_images=on_images,
                size_px=size,
                channels=None if grey is None else 1 if grey else 3,
                class_names=None if class_names is None else tuple(name.strip() for name in class_names.split(",")),
                root=root,
                split=split,
                download=download or None,
            )
    except KeyboardInterrupt:
        console.print(
            Text(f"interrupted; {redact(dest)} is unfinished, the same command writes it anew."), soft_wrap=True
        )
        raise
    kind = count(manifest.info.num_classes, "class", "classes") if manifest.info.class_names else "an OOD set"
    console.print(
        Text(
            f"wrote {redact(dest)}: {count(manifest.num_images, 'image')} of {in_px(manifest.info)}, {kind}, "
            f"{count(len(manifest.shards), 'shard')}, {in_bytes(manifest.num_bytes)}"
        ),
        soft_wrap=True,
    )


@app.command("export", epilog="Example:  sio-ray images export s3://bucket/set set_wds --format webdataset")
def export_set(
    uri: SetArgument,
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="The new folder, on a local disk.")],
    format_name: Annotated[str, typer.Option("--format", metavar="NAME", help="npy, image-folder or webdataset.")],
    debug: Debug = False,
) -> None:
    """Write an image set in a format of others."""
    from sio_ray.imageset.exchange import export_images

    with _bar("exporting", "images") as on_images:
        image_set = export_images(format_name, uri, dest, on_images=on_images)
    console.print(Text(f"wrote {dest}: {count(len(image_set), 'image')} as {format_name}"), soft_wrap=True)


@contextmanager
def _bar(action: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """One progress bar, fed with what is done and how much there is."""
    with progress_bars() as bars:
        task = bars.add_task(action, total=None, unit=unit, note="")
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _chosen_labels(names: tuple[str, ...], classes: str | None) -> list[int]:
    if classes is None:
        return list(range(min(len(names), _MAX_CLASSES)))
    wanted = [name.strip() for name in classes.split(",")]
    for name in wanted:
        if name not in names:
            some = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise ConfigError("--classes", f"among the classes of the set ({some})", name, "name some of them")
    return [names.index(name) for name in wanted]


def _out() -> Console:
    """For what was asked for, which may go to a pipe; all else goes to standard error."""
    return Console(highlight=False)


def _print_json(value: Any) -> None:
    sys.stdout.write(json_format.dumps(redact_values(value), indent=1) + "\n")
