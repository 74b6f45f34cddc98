"""Says in words and in tables what image sets are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from sio_ray.imageset.summary import SetSummary, UnfinishedSet, UnreadableSet

    Summary = SetSummary | UnfinishedSet | UnreadableSet

#: Key of a provenance to its word, in the order of print.
_ORIGIN = {
    "source": "source",
    "set": "set",
    "dataset": "data set",
    "split": "split",
    "path": "path",
    "generator": "generator",
    "scheduler": "scheduler",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "base_seed": "base seed",
    "seed": "seed",
}

#: More class names than this are not listed.
_MAX_NAMES = 20


class _HasSize(Protocol):
    @property
    def height_px(self) -> int: ...
    @property
    def width_px(self) -> int: ...
    @property
    def channels(self) -> int: ...


def details(summary: Summary) -> RenderableType:
    """All of one set, a line each."""
    grid = Table.grid(padding=(0, 2))
    for name, text in _lines(summary):
        grid.add_row(Text(f"  {name}"), Text(text, overflow="fold"))
    return Group(Text(summary.uri, style="bold", overflow="fold"), grid)


def overview(summaries: Mapping[str, Summary]) -> RenderableType:
    """The sets below a folder, a row each."""
    from sio_ray.imageset.summary import SetSummary, UnfinishedSet

    reasons = []
    table = plain_table("set", "images", "classes", "HxWxC", "shards", "bytes", "per image", left=("set",))
    for place, summary in summaries.items():
        name = Text(place or ".", overflow="fold")
        if isinstance(summary, UnfinishedSet):
            table.add_row(name, "unfinished", "", "", f"{summary.num_shards_done:,} of {summary.num_shards:,}", "", "")
            continue
        if not isinstance(summary, SetSummary):
            table.add_row(name, "unreadable", "", "", "", "", "")
            reasons.append(Text(summary.reason))
            continue
        table.add_row(
            name,
            f"{summary.num_images:,}",
            f"{len(summary.class_names):,}" if summary.class_names else "OOD",
            f"{summary.height_px}x{summary.width_px}x{summary.channels}",
            f"{summary.num_shards:,}",
            in_bytes(summary.num_bytes),
            in_bytes(summary.num_bytes / max(1, summary.num_images)),
        )
    return Group(table, *reasons)


def plain_table(*columns: str, left: Sequence[str]) -> Table:
    """A table without lines, whose columns are flush right but for those in `left`."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right", overflow="fold")
    return table


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def in_bytes(number: float) -> str:
    """A size in decimal units, three digits."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if number < 999.5 or unit == "TB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if number >= 99.95 or unit == "bytes" else f"{number:.1f} {unit}"


def in_px(size: _HasSize) -> str:
    """Width, height and colours of pictures."""
    return f"{size.width_px}x{size.height_px} px, {'grey' if size.channels == 1 else 'RGB'}"


def _lines(summary: Summary) -> Iterator[tuple[str, str]]:
    from sio_ray.imageset.summary import SetSummary, UnfinishedSet

    if isinstance(summary, UnfinishedSet):
        yield "unfinished", f"{summary.num_shards_done:,} of {summary.num_shards:,} shards"
        yield "to do", "run the stage or the import that writes it again; a stage continues where it stopped"
        return
    assert isinstance(summary, SetSummary), "an unreadable set has no details"
    yield "images", f"{summary.num_images:,}, each {in_px(summary)}"
    yield "classes", _classes(summary)
    yield (
        "files",
        f"{count(summary.num_shards, 'shard')}, {in_bytes(summary.num_bytes)}, "
        f"{in_bytes(summary.num_bytes / max(1, summary.num_images))} an image",
    )
    for key, word in _ORIGIN.items():
        if summary.provenance.get(key) is not None:
            yield word, str(summary.provenance[key])
    if summary.num_rejected:
        drawn = summary.num_images + summary.num_rejected
        yield "rejected", f"{100 * summary.share_rejected:.1f} % of {drawn:,} that were drawn"


def _classes(summary: SetSummary) -> str:
    if not summary.class_names:
        return "none (an OOD set)"
    low, high = min(summary.class_counts), max(summary.class_counts)
    each = f"{low:,}" if low == high else f"{low:,}..{high:,}"
    names = f": {', '.join(summary.class_names)}" if len(summary.class_names) <= _MAX_NAMES else ""
    return f"{len(summary.class_names):,} of {each} images each{names}"
