"""Somebody else's features and logits, from files: checked, and as detectors read them.

A folder holds one file per image set, `NAME.npz` or `NAME.parquet`:

    train  val  test                    ID; detectors are fitted on train
    near/SET  far/SET                   OOD test sets, at least one
    val_near/SET  val_far/SET           OOD validation sets, which sweeps choose on
    id_shifted/SET                      ID test images under a covariate shift, for the full spectrum

with the arrays, or columns, `features` (N, D), `logits` (N, C), `labels` (N,), which are in [0, C) for ID and -1, or
left out, for OOD, and, if wanted, `image_id` (N,). `last_layer.npz` holds `weight` (C, D) and `bias` (C,): without it,
detectors that read the last layer are refused; with it, logits may be left out. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from sio_ray.errors import ConfigError, EvaluationError, did_you_mean
from sio_ray.imageset.storage import Folder
from sio_ray.ood.detectors import Detector
from sio_ray.ood.groups import Group, OODSet
from sio_ray.ood.outputs import LastLayer, NetworkOutputs
from sio_ray.ood.protocol import EvaluationSets
from sio_ray.ood.store import as_tensor
from sio_ray.reading import reason_of

Array = npt.NDArray[Any]

_LAST_LAYER = "last_layer.npz"
_SUFFIXES = (".npz", ".parquet")
_ID_SETS = ("train", "val", "test")
_OOD_GROUPS = ("near", "far", "val_near", "val_far")
_GROUPS = (*_OOD_GROUPS, "id_shifted")

#: What a detector lacks that asks more of a network than its features and logits.
_NETWORK = "the network itself"

#: Rows that are looked at at once; a matrix of flags for all would be large.
_BLOCK_ROWS = 65_536

#: Rows whose logits are made again, and how far they may be from those that are given, over the largest: features may
#: have been stored in half precision.
_COMPARED_ROWS, _TOLERANCE = 1024, 0.01


def load_given(uri: str) -> EvaluationSets:
    """Read all files of a folder.

    Args:
        uri: path or URI of a folder as above.

    Raises:
        EvaluationError: a file is missing, of an unknown name or broken; or an array is missing, of the wrong shape,
            not finite, or does not fit the others. The file and the array are named.
    """
    folder = Folder(uri)
    files = _files(folder)
    layer = _last_layer(folder) if folder.exists(_LAST_LAYER) else None
    read = {name: _read_set(_File(folder, file), name, layer) for name, file in files.items()}
    sizes = (read["train"].features.shape[1], read["train"].logits.shape[1])
    for name, outputs in read.items():
        found = (outputs.features.shape[1], outputs.logits.shape[1])
        if found != sizes:
            raise EvaluationError(
                f"{folder.join(files[name])} has {found[0]} features and {found[1]} logits per image, "
                f"{files['train']} {sizes[0]} and {sizes[1]}; give outputs of one network."
            )

    def sets(group: str) -> dict[str, NetworkOutputs]:
        return {name.removeprefix(f"{group}/"): read[name] for name in read if name.startswith(f"{group}/")}

    def ood_sets(prefix: str) -> dict[OODSet, NetworkOutputs]:
        return {(group, name): found for group in get_args(Group) for name, found in sets(f"{prefix}{group}").items()}

    return EvaluationSets(
        train=read["train"],
        val=read["val"],
        test=read["test"],
        ood=ood_sets(""),
        val_ood=ood_sets("val_"),
        shifted=sets("id_shifted"),
        last_layer=layer,
    )


def check_detectors(detectors: Sequence[Detector], *, has_last_layer: bool) -> None:
    """Refuse detectors that read what given outputs do not have.

    Args:
        detectors: those that shall score them.
        has_last_layer: whether there is a `last_layer.npz`.

    Raises:
        ConfigError: some of them need the network itself, or the last layer; all of these are named.
    """
    lacks = {detector.name: lacks_given(detector, has_last_layer=has_last_layer) for detector in detectors}
    for need, rule, remedy in (
        (
            _NETWORK,
            "of features and logits alone with evaluate.outputs",
            "leave these out, or give the network as evaluate.checkpoints",
        ),
        (
            _LAST_LAYER,
            f"without a last layer where evaluate.outputs has no {_LAST_LAYER}",
            "add it, or leave these out",
        ),
    ):
        if names := [name for name, lacked in lacks.items() if lacked == need]:
            raise ConfigError("evaluate.detectors", rule, ", ".join(names), remedy)


def lacks_given(detector: Detector, *, has_last_layer: bool) -> str | None:
    """What a detector would need beside given outputs; None if it can score them."""
    if detector.probes():
        return _NETWORK
    return None if has_last_layer or "last_layer" not in detector.needs else _LAST_LAYER


@dataclass(frozen=True)
class _File:
    """One file; what its errors are made of."""

    folder: Folder
    name: str

    def error(self, problem: str, remedy: str) -> EvaluationError:
        return EvaluationError(f"{self.folder.join(self.name)}: {problem}; {remedy}.")

    def arrays(self, wanted: Collection[str]) -> dict[str, Array | None]:
        """Name to array as it is stored; None for those that are there and not wanted."""
        read = self._parquet if self.name.endswith(".parquet") else _npz
        try:
            with self.folder.open(self.name) as stream:
                return read(stream, wanted)
        except EvaluationError:
            raise
        except Exception as error:  # broken archives and headers make their readers raise anything
            problem = f"it cannot be read ({reason_of(error)})"
            raise self.error(problem, "write it with numpy.savez or as Parquet") from error

    def _parquet(self, stream: Any, wanted: Collection[str]) -> dict[str, Array | None]:
        file = pq.ParquetFile(stream)
        arrays: dict[str, Array | None] = dict.fromkeys(file.schema_arrow.names)
        table = file.read([name for name in arrays if name in wanted])
        for name in table.column_names:
            column = values = table[name].combine_chunks()
            if isinstance(column.type, (pa.ListType, pa.LargeListType, pa.FixedSizeListType)):
                if len(pc.unique(pc.list_value_length(column))) > 1:
                    raise self.error(f"{name} has rows of several lengths", "give as many values per image")
                values = column.flatten()
            if column.null_count or values.null_count:
                raise self.error(f"{name} has values that are missing", "give a number for each")
            array = values.to_numpy(zero_copy_only=False)
            arrays[name] = array if values is column else array.reshape(len(column), -1)
        return arrays

    def matrix(
        self, arrays: Mapping[str, Array | None], name: str, *, ndim: int = 2, num_rows: int | None = None
    ) -> Array:
        """A float32 array that is finite."""
        array = self._array(arrays, name, ndim, num_rows)
        if array.dtype.kind != "f":
            raise self.error(f"{name} must be of floating point numbers, got {array.dtype}", "convert it")
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite there
            array = array.astype(np.float32, copy=False)
        for start in range(0, len(array), _BLOCK_ROWS):
            block = array[start : start + _BLOCK_ROWS]
            broken = np.flatnonzero(~np.isfinite(block).reshape(len(block), -1).all(1))
            if len(broken):
                problem = f"{name} must be finite in float32, got NaN or infinity in row {start + broken[0]}"
                raise self.error(problem, "look at that image")
        return array

    def integers(self, arrays: Mapping[str, Array | None], name: str, num_rows: int) -> Array:
        """An int64 array, (N,)."""
        array = self._array(arrays, name, 1, num_rows)
        if array.dtype.kind not in "iu":
            raise self.error(f"{name} must be of integers, got {array.dtype}", "convert it")
        return array.astype(np.int64)

    def _array(self, arrays: Mapping[str, Array | None], name: str, ndim: int, num_rows: int | None) -> Array:
        array = arrays.get(name)
        if array is None:
            raise self.error(f"it must hold {name}, got {', '.join(arrays) or 'nothing'}", "add that array")
        if array.ndim != ndim or 0 in array.shape or num_rows not in (None, len(array)):
            rule = f"have {ndim} dimension(s), " + (f"{num_rows} rows" if num_rows else "none empty")
            raise self.error(f"{name} must {rule}, got shape {array.shape}", "give one row per image")
        return array


def _npz(stream: Any, wanted: Collection[str]) -> dict[str, Array | None]:
    archive = np.load(stream, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError("it holds one array and no names")
    with archive:
        return {name: archive[name] if name in wanted else None for name in archive.files}


def _files(folder: Folder) -> dict[str, str]:
    """Name of each image set to its file."""
    found: dict[str, str] = {}
    for file in sorted(folder.files(below=True)):
        path = PurePosixPath(file)
        if path.suffix not in _SUFFIXES or file == _LAST_LAYER:
            continue
        name = str(path.with_suffix(""))
        group, _, of_group = name.partition("/")
        if name not in _ID_SETS and not (group in _GROUPS and of_group and "/" not in of_group):
            known = [*_ID_SETS, *(f"{each}/SET" for each in _GROUPS), "last_layer.npz"]
            near = did_you_mean(group, [*_ID_SETS, *_GROUPS], "rename it, or put it elsewhere")
            raise EvaluationError(f"{folder.join(file)} must be named one of {', '.join(known)}; {near}.")
        if name in found:
            raise EvaluationError(f"{folder.join(file)} is there as {found[name]} too; delete one of them.")
        found[name] = file
    missing = [name for name in _ID_SETS if name not in found]
    if not any(name.startswith(("near/", "far/")) for name in found):
        missing.append("near/SET or far/SET")
    if missing:
        raise EvaluationError(
            f"{folder.safe_uri} holds no {', '.join(missing)} (.npz or .parquet); add what is missing."
        )
    return found


def _last_layer(folder: Folder) -> LastLayer:
    file = _File(folder, _LAST_LAYER)
    arrays = file.arrays(("weight", "bias"))
    weight = file.matrix(arrays, "weight")
    bias = file.matrix(arrays, "bias", ndim=1, num_rows=len(weight))
    return LastLayer(as_tensor(weight), as_tensor(bias))


def _read_set(file: _File, name: str, layer: LastLayer | None) -> NetworkOutputs:
    arrays = file.arrays(("features", "logits", "labels", "image_id"))
    features = as_tensor(file.matrix(arrays, "features"))
    if layer is not None and features.shape[1] != layer.weight.shape[1]:
        raise file.error(
            f"features must have the {layer.weight.shape[1]} columns of {_LAST_LAYER}, got {features.shape[1]}",
            "give the layer that reads these features",
        )
    num_images = len(features)
    if "logits" in arrays or layer is None:
        logits = as_tensor(file.matrix(arrays, "logits", num_rows=num_images))
        if layer is not None:
            _compare_logits(file, features, logits, layer)
    else:
        logits = torch.addmm(layer.bias, features, layer.weight.T)
    labels = _labels(
        file, arrays, is_ood=name.startswith(_OOD_GROUPS), num_images=num_images, num_classes=logits.shape[1]
    )
    image_ids = file.integers(arrays, "image_id", num_images) if "image_id" in arrays else np.arange(num_images)
    if len(np.unique(image_ids)) < num_images:
        raise file.error("image_id must be unique, got some twice", "number the images, or leave it out")
    return NetworkOutputs(features, logits, as_tensor(labels), as_tensor(image_ids))


def _labels(
    file: _File, arrays: Mapping[str, Array | None], *, is_ood: bool, num_images: int, num_classes: int
) -> Array:
    if is_ood and "labels" not in arrays:
        return np.full(num_images, -1)
    labels = file.integers(arrays, "labels", num_images)
    wrong = np.flatnonzero(labels != -1 if is_ood else (labels < 0) | (labels >= num_classes))
    if len(wrong):
        rule = "-1 for OOD" if is_ood else f"in [0, {num_classes}) for ID"
        remedy = "leave them out" if is_ood else "give the class of each image"
        raise file.error(f"labels must be {rule}, got {labels[wrong[0]]} in row {wrong[0]}", remedy)
    return labels


def _compare_logits(file: _File, features: torch.Tensor, logits: torch.Tensor, layer: LastLayer) -> None:
    """A last layer that does not make the logits would make nonsense of every detector that reads it, in silence."""
    if logits.shape[1] != len(layer.bias):
        raise file.error(
            f"logits must have the {len(layer.bias)} columns of {_LAST_LAYER}, got {logits.shape[1]}",
            "give outputs of one network",
        )
    given = logits[:_COMPARED_ROWS]
    made = torch.addmm(layer.bias, features[:_COMPARED_ROWS], layer.weight.T)
    apart = float((made - given).abs().max())
    if apart > _TOLERANCE * float(given.abs().max()):
        raise file.error(
            f"logits must be features @ weight.T + bias of {_LAST_LAYER}, got some {apart:.3g} apart",
            f"give the layer that made them, or delete {_LAST_LAYER}",
        )
