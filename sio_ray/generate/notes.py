"""Notes beside a set in the making: one small file per finished shard, so that a resume need not read the shard."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from sio_ray.generate.plan import Plan
from sio_ray.imageset import ShardEntry
from sio_ray.imageset.clients import scheme_of
from sio_ray.imageset.storage import Folder

#: Readers of Parquet folders skip names that begin with an underscore.
NOTES_FOLDER = "_drawn"

#: Small files are read, and deleted, so many at a time.
_AT_A_TIME = 16


class Seconds(BaseModel):
    """Where the time of a shard, or of many, went.

    Attributes:
        sample_s: in the sampler and the curation rule, wall clock.
        encode_s: in the PNG encoder, CPU time of a thread beside the sampler.
        write_s: packing, hashing and writing, beside the next shard's sampling.
    """

    model_config = ConfigDict(frozen=True)

    sample_s: float = 0.0
    encode_s: float = 0.0
    write_s: float = 0.0

    @property
    def by_part(self) -> dict[str, float]:
        """Part of the work to its seconds."""
        return {"sample": self.sample_s, "encode": self.encode_s, "write": self.write_s}

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(
            sample_s=self.sample_s + other.sample_s,
            encode_s=self.encode_s + other.encode_s,
            write_s=self.write_s + other.write_s,
        )


class DrawnShard(BaseModel):
    """A shard that is written.

    Attributes:
        shard_id: from 0.
        entry: its line of the manifest.
        seconds: where its time went.
    """

    model_config = ConfigDict(frozen=True)

    shard_id: int
    entry: ShardEntry
    seconds: Seconds = Seconds()

    @property
    def digest(self) -> str:
        """Of the shard's bytes."""
        return self.entry.sha256


def write_note(folder: Folder, drawn: DrawnShard) -> None:
    """Note that a shard is written; called after the shard itself."""
    folder.subfolder(NOTES_FOLDER).write_bytes(f"{drawn.entry.name}.json", drawn.model_dump_json().encode())


@dataclass(frozen=True)
class Survey:
    """What a folder holds of a plan's shards.

    Attributes:
        noted: shard id to what was noted, for every shard that is there with the size that was noted.
        unnoted: ids of shards that are there without a note that can be relied on; they are to be read themselves.
        missing: ids of shards to draw.
    """

    noted: dict[int, DrawnShard]
    unnoted: list[int]
    missing: list[int]


def survey(folder: Folder, plan: Plan) -> Survey:
    """See what of a plan has been drawn already; no shard is read."""
    notes = folder.subfolder(NOTES_FOLDER)
    there = folder.list()

    def read(name: str) -> DrawnShard | None:
        try:
            drawn = DrawnShard.model_validate_json(notes.read_bytes(name))
        except (ValidationError, OSError):
            return None
        belongs = drawn.shard_id in range(plan.num_shards) and drawn.entry.name == plan.shard_name(drawn.shard_id)
        return drawn if belongs and there.get(drawn.entry.name) == drawn.entry.num_bytes else None

    with ThreadPoolExecutor(_AT_A_TIME) as readers:
        noted = {drawn.shard_id: drawn for drawn in readers.map(read, notes.list()) if drawn is not None}
    others = [shard_id for shard_id in range(plan.num_shards) if shard_id not in noted]
    unnoted = [shard_id for shard_id in others if plan.shard_name(shard_id) in there]
    missing = [shard_id for shard_id in others if plan.shard_name(shard_id) not in there]
    return Survey(noted, unnoted, missing)


def delete_notes(folder: Folder) -> None:
    """Delete all notes; the manifest says it all now.

    A bucket takes a thousand in one request by their folder, and three requests for each one by one; a disk takes them
    one by one, and where it is another machine's, many at a time.
    """
    notes = folder.subfolder(NOTES_FOLDER)
    if not scheme_of(notes.uri):
        with ThreadPoolExecutor(_AT_A_TIME) as deleters:
            list(deleters.map(notes.delete, notes.list()))
    notes.delete_folder()
