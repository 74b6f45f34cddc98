"""Outputs of a network in Ray's object store: read once, and shared by all tasks of a node without copies."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from sio_ray.cluster import value_of
from sio_ray.ood.outputs import NetworkOutputs
from sio_ray.ood.probe import Probe
from sio_ray.ood.store import ALL_COLUMNS, Array, OutputStore, as_tensor, not_read


@dataclass(frozen=True)
class SharedOutputs:
    """The outputs of one set by object references, as small as these; to be handed to tasks.

    Attributes:
        rows: of labels, image ids, and the sizes of `features` and `logits`.
        columns: of `features` and `logits`, those that were asked for.
        probes: name of a probe to that of what it read.
    """

    rows: Any
    columns: Mapping[str, Any]
    probes: Mapping[str, Any]


def share_outputs(folder: str, needs: Collection[str] = ALL_COLUMNS, probes: Collection[Probe] = ()) -> SharedOutputs:
    """Begin to read an `OutputStore` into the object store, a task per column; nothing comes to the driver.

    What a lost node held is read again when it is asked for. Errors come from `fetch_outputs`.

    Args:
        folder: path or URI of the store.
        needs: of `features` and `logits`.
        probes: that are wanted.
    """
    read = ray.remote(num_cpus=1)(_read)
    return SharedOutputs(
        rows=ray.remote(num_cpus=1)(_read_rows).remote(folder),
        columns={name: read.remote(folder, name) for name in sorted(ALL_COLUMNS.intersection(needs))},
        probes={probe.name: read.remote(folder, probe) for probe in probes},
    )


def put_outputs(outputs: NetworkOutputs) -> SharedOutputs:
    """Share outputs that are in memory."""
    columns = {name: getattr(outputs, name) for name in sorted(ALL_COLUMNS)}
    widths = {name: tensor.shape[1] for name, tensor in columns.items()}
    return SharedOutputs(
        rows=ray.put((outputs.labels.numpy(), outputs.image_ids.numpy(), widths)),
        columns={name: ray.put(tensor.numpy()) for name, tensor in columns.items()},
        probes={name: ray.put(tensor.numpy()) for name, tensor in outputs.probes.items()},
    )


def fetch_outputs(
    shared: SharedOutputs, needs: Collection[str] = ALL_COLUMNS, probes: Collection[str] = ()
) -> NetworkOutputs:
    """Open what was shared, in any worker; the tensors are the object store's memory, which nobody may write to.

    Args:
        shared: of `share_outputs`.
        needs: columns, all shared; the others have their shape, and NaN for every value.
        probes: names of probes, likewise.

    Raises:
        EvaluationError: the store is incomplete or corrupt.
    """
    wanted = {name: shared.columns[name] for name in ALL_COLUMNS.intersection(needs)}
    labels, image_ids, widths = value_of(shared.rows)
    columns = {name: as_tensor(value_of(reference)) for name, reference in wanted.items()}
    columns |= {name: not_read(len(labels), width) for name, width in widths.items() if name not in columns}
    return NetworkOutputs(
        **columns,
        labels=as_tensor(labels),
        image_ids=as_tensor(image_ids),
        probes={name: as_tensor(value_of(shared.probes[name])) for name in probes},
    )


def _read(folder: str, column: str | Probe) -> Array:
    """Runs in a task."""
    store = OutputStore(folder)
    if isinstance(column, Probe):
        read = store.read((), (column,)).probes[column.name]
    else:
        read = getattr(store.read({column}), column)
    values: Array = read.numpy()
    return values


def _read_rows(folder: str) -> tuple[Array, Array, dict[str, int]]:
    """Runs in a task."""
    outputs = OutputStore(folder).read(())
    widths = {name: getattr(outputs, name).shape[1] for name in ALL_COLUMNS}
    return outputs.labels.numpy(), outputs.image_ids.numpy(), widths
