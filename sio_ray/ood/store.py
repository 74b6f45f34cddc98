"""The outputs of one network for one image set on disk: Arrow files, one per shard and group of columns."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from sio_ray.errors import EvaluationError
from sio_ray.imageset.clients import scheme_of
from sio_ray.imageset.storage import Folder
from sio_ray.ood.outputs import NetworkOutputs
from sio_ray.ood.probe import Probe
from sio_ray.provenance import changes, fingerprint
from sio_ray.reading import parse_json_object, reason_of

#: Written first: which network and image set the folder belongs to.
IDENTITY_NAME = "identity.json"

#: The group of columns that every set has; each probe is a group of its own, so that a new one costs no more than it.
OUTPUTS = "outputs"

#: What `read` takes unless told.
ALL_COLUMNS = frozenset({"features", "logits"})

_FILE_NAME = re.compile(r"(.+)-\d{5,}-of-(\d{5,})\.arrow")

#: Where the rows of a column with more than one dimension have their shape, in the field's metadata.
_SHAPE_KEY = b"shape"

#: Files are read so many at a time.
_CONCURRENT_READS = 16

Array = npt.NDArray[Any]


def group_of(probe: Probe) -> str:
    """The group of columns that holds what a probe read; another setting of the probe has another."""
    return f"{probe.name}-{fingerprint(probe.identity())}"


def as_tensor(values: Array) -> Tensor:
    """The same memory as a tensor, also where it is read-only; nobody may write to it."""
    # Not torch.from_numpy, which warns of memory that is read-only, as all of Arrow's and Ray's is.
    return from_dlpack(pa.array(values.reshape(-1))).view(values.shape)


def not_read(num_images: int, width: int) -> Tensor:
    """Stands for a column that nobody needs: (N, D) like it, NaN everywhere, without taking memory."""
    return torch.full((1, 1), float("nan")).expand(num_images, width)


class OutputStore:
    """A folder of files `{group}-{shard}-of-{shards}.arrow`, uncompressed; each appears whole or not at all.

    Group `outputs` has the columns image_id, label, content (`content_hashes`), features and logits; the group of a
    probe has image_id and values. Rows are in the order of the image set's shard.

    Args:
        uri: path or URI of the folder.
    """

    def __init__(self, uri: str) -> None:
        self.folder = Folder(uri)

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Write which network and image set the folder belongs to, or compare with what it says.

        Args:
            identity: JSON values.

        Raises:
            EvaluationError: it belongs to others.
        """
        try:
            there = parse_json_object(self.folder.read_bytes(IDENTITY_NAME))
        except FileNotFoundError:
            self.folder.write_bytes(IDENTITY_NAME, (json.dumps(identity, indent=1) + "\n").encode())
            return
        except (OSError, ValueError) as error:
            raise EvaluationError(
                f"{self.folder.join(IDENTITY_NAME)} cannot be read ({reason_of(error)}); delete the folder to extract "
                "its outputs anew."
            ) from error
        if changed := changes(there, dict(identity)):
            raise EvaluationError(
                f"{self.folder.safe_uri} holds the outputs of another network or image set:\n"
                + "".join(f"  {change}\n" for change in changed)
                + "Give another folder, or delete it to extract them anew."
            )

    def missing(self, num_shards: int, probes: Collection[Probe]) -> dict[int, frozenset[str]]:
        """Shard to its groups that are not there yet; shards with none missing are left out.

        Args:
            num_shards: of the image set.
            probes: that are wanted.
        """
        there = self.folder.list()
        wanted = [OUTPUTS, *map(group_of, probes)]
        groups = {
            shard_id: frozenset(group for group in wanted if _file_name(group, shard_id, num_shards) not in there)
            for shard_id in range(num_shards)
        }
        return {shard_id: of_shard for shard_id, of_shard in groups.items() if of_shard}

    def write(
        self,
        shard_id: int,
        num_shards: int,
        outputs: NetworkOutputs,
        content: npt.NDArray[np.int64],
        probes: Collection[Probe],
        groups: Collection[str],
    ) -> None:
        """Write groups of one shard, each as one file.

        Args:
            shard_id: of the image set, from 0.
            num_shards: of the image set.
            outputs: of the shard's images, with what the probes of `groups` read.
            content: (N,) `content_hashes` of the images.
            probes: whose groups may be among `groups`.
            groups: what is missing; others that are there stay as they are.

        Raises:
            ResourceError: the folder cannot be written.
        """
        image_id = outputs.image_ids.numpy()
        columns: dict[str, dict[str, Array]] = {
            group_of(probe): {"image_id": image_id, "values": outputs.probes[probe.name].numpy()}
            for probe in probes
            if group_of(probe) in groups
        }
        if OUTPUTS in groups:
            columns[OUTPUTS] = {
                "image_id": image_id,
                "label": outputs.labels.numpy(),
                "content": content,
                "features": outputs.features.numpy(),
                "logits": outputs.logits.numpy(),
            }
        for group, of_group in columns.items():
            self.folder.write_bytes(_file_name(group, shard_id, num_shards), _encode(of_group))

    def read(self, needs: Collection[str] = ALL_COLUMNS, probes: Collection[Probe] = ()) -> NetworkOutputs:
        """Read the whole set.

        Where the folder is local and the set has one shard, the tensors are the file's own memory; otherwise each
        column is filled in place, shard by shard. They may be read-only.

        Args:
            needs: of `features` and `logits`; what is not among them has its shape, and NaN for every value, without
                taking memory.
            probes: that are wanted.

        Raises:
            EvaluationError: a shard is missing, corrupt, or does not fit the others.
        """
        files = self._files(OUTPUTS)
        with _opened(self.folder, files[0]) as table:
            widths = {name: _row_shape(table.schema.field(name)) for name in ("features", "logits")}
        columns = self._columns(files, ["image_id", "label", *(name for name in widths if name in needs)])
        image_ids, num_images = columns["image_id"], len(columns["image_id"])
        of_probes = {}
        for probe in probes:
            of_probe = self._columns(self._files(group_of(probe), len(files)), ["image_id", "values"])
            if not np.array_equal(of_probe["image_id"], image_ids):
                raise EvaluationError(
                    f"{self.folder.join(group_of(probe))}-* must hold the images of {OUTPUTS}-*, got others; "
                    "delete these files and extract again."
                )
            of_probes[probe.name] = as_tensor(of_probe["values"])

        def tensor(name: str) -> Tensor:
            return as_tensor(columns[name]) if name in columns else not_read(num_images, *widths[name])

        return NetworkOutputs(
            features=tensor("features"),
            logits=tensor("logits"),
            labels=tensor("label"),
            image_ids=tensor("image_id"),
            probes=of_probes,
        )

    def content(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Image ids and `content_hashes` of the whole set, (N,) each.

        Raises:
            EvaluationError: a shard is missing or corrupt.
        """
        columns = self._columns(self._files(OUTPUTS), ["image_id", "content"])
        return columns["image_id"], columns["content"]

    def _files(self, group: str, num_shards: int | None = None) -> list[str]:
        """The files of a group in the order of their shards; all of them, or it is an error."""
        there = self.folder.list()
        matches = [match for match in map(_FILE_NAME.fullmatch, there) if match and match[1] == group]
        total = num_shards or next((int(match[2]) for match in matches), 1)
        names = [_file_name(group, shard_id, total) for shard_id in range(total)]
        if absent := [shard_id for shard_id, name in enumerate(names) if name not in there]:
            raise EvaluationError(
                f"{self.folder.join(group)}-* must hold all {total} shards, got none of {absent[:10]}; "
                "run the same command again, it extracts what is missing."
            )
        return names

    def _columns(self, files: Sequence[str], names: Sequence[str]) -> dict[str, Array]:
        """Columns of all files, one after the other in memory; of one local file its own memory."""
        if len(files) == 1:
            with _opened(self.folder, files[0], names) as table:
                return {name: _values(table, name) for name in names}
        with ThreadPoolExecutor(_CONCURRENT_READS) as readers:

            def counted(name: str) -> int:
                with _opened(self.folder, name, ["image_id"]) as table:
                    return len(table)

            ends = np.cumsum([0, *readers.map(counted, files)])
            with _opened(self.folder, files[0], names) as table:
                whole = {
                    name: np.empty((ends[-1], *_row_shape(table.schema.field(name))), _values(table, name).dtype)
                    for name in names
                }

            def fill(shard_id: int) -> None:
                with _opened(self.folder, files[shard_id], names) as table:
                    for name in names:
                        whole[name][ends[shard_id] : ends[shard_id + 1]] = _values(table, name)

            list(readers.map(fill, range(len(files))))
        return whole


def _file_name(group: str, shard_id: int, num_shards: int) -> str:
    return f"{group}-{shard_id:05d}-of-{num_shards:05d}.arrow"


def _encode(columns: Mapping[str, Array]) -> bytes:
    fields, arrays = [], []
    for name, values in columns.items():
        array, shape = pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1:]
        if shape:
            array = pa.FixedSizeListArray.from_arrays(array, int(np.prod(shape)))
        fields.append(pa.field(name, array.type, nullable=False, metadata={_SHAPE_KEY: json.dumps(shape)}))
        arrays.append(array)
    batch = pa.record_batch(arrays, schema=pa.schema(fields))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


@contextmanager
def _opened(folder: Folder, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """One file as Arrow sees it; of a local one nothing is copied, of any other only some columns are fetched.

    Raises:
        EvaluationError: it is missing or corrupt.
    """
    try:
        if scheme_of(folder.uri):
            with folder.open(name) as stream:
                schema = pa.ipc.open_file(stream).schema
                fields = None if columns is None else [schema.get_field_index(column) for column in columns]
                yield pa.ipc.open_file(stream, options=pa.ipc.IpcReadOptions(included_fields=fields)).get_batch(0)
        else:  # with `included_fields`, Arrow would copy
            with pa.memory_map(str(Path(folder.uri) / name)) as stream:
                yield pa.ipc.open_file(stream).get_batch(0)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        reason = reason_of(error)
        raise EvaluationError(
            f"{folder.join(name)} cannot be read ({reason}); delete it and run the same command again."
        ) from error


def _row_shape(field: pa.Field) -> tuple[int, ...]:
    return tuple(json.loads(field.metadata[_SHAPE_KEY]))


def _values(batch: pa.RecordBatch, name: str) -> Array:
    """A column as NumPy sees it, (N, ...); nothing is copied."""
    column = batch.column(name)
    shape = _row_shape(batch.schema.field(name))
    flat: Array = (column.flatten() if shape else column).to_numpy(zero_copy_only=True)
    return flat.reshape(len(batch), *shape)
