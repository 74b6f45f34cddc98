"""One table of several trainings: what each was evaluated to, under the names of the methods that it gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sio_ray.errors import EvaluationError
from sio_ray.imageset.storage import Folder
from sio_ray.methods import METHODS
from sio_ray.ood.openood_csv import write_openood_csv
from sio_ray.ood.summary import summarise
from sio_ray.reading import parse_json_object, reason_of
from sio_ray.stages.evaluation_results import METRICS_NAME, OPENOOD_NAME, PROJECTION_NAME, SCORES_NAME, records_of
from sio_ray.stages.trainings import Training

#: Tables of `metrics.json` with a row per detector.
_BY_DETECTOR = ("metrics", "full_spectrum_rows", "settings", "sweeps", "costs")


def join_results(parts: Sequence[tuple[Training, Path]], folder: Path) -> dict[str, Any]:
    """Write the files of an evaluation whose detectors are methods.

    The accuracies have a row for each method, as a method is its networks too. Pictures of features are those of the
    first training.

    Args:
        parts: the trainings, each with the folder of its evaluation.
        folder: of the joint one.

    Returns:
        The result of the stage, as `write_results` gives it.

    Raises:
        EvaluationError: a part cannot be read.
    """
    measured = [(training.methods, _read(part / METRICS_NAME)) for training, part in parts]
    rows = {name: _in_order([row for part in measured for row in _renamed(*part, name)]) for name in _BY_DETECTOR}
    rows["id_accuracy"] = _in_order(
        [
            {**row, "detector": method}
            for methods, part in measured
            for method in methods.values()
            for row in part["id_accuracy"]
        ]
    )
    csv_folder = Folder(str(folder)).subfolder(OPENOOD_NAME)
    for methods, part in measured:
        tables = (("metrics", "id_accuracy", "ood"), ("full_spectrum_rows", "full_spectrum_accuracy", "fsood"))
        for name, accuracy, scheme in tables:
            if found := _renamed(methods, part, name):
                write_openood_csv(csv_folder, pd.DataFrame(found), pd.DataFrame(part[accuracy]), scheme=scheme)
    _join_scores([(training.methods, part / SCORES_NAME) for training, part in parts], folder)
    shutil.copyfile(parts[0][1] / PROJECTION_NAME, folder / PROJECTION_NAME)
    result: dict[str, Any] = {
        "summary": records_of(summarise(pd.DataFrame(rows["metrics"]))),
        "id_accuracy": rows["id_accuracy"],
    }
    if rows["full_spectrum_rows"]:
        result["full_spectrum"] = records_of(summarise(pd.DataFrame(rows["full_spectrum_rows"])))
    passes = [part["extraction"] for _, part in measured if part["extraction"]]
    result |= {
        "quality": measured[0][1]["quality"],
        "failed": {methods[name]: why for methods, part in measured for name, why in part["failed"].items()},
        "extraction": {key: sum(each[key] for each in passes) for key in (passes[0] if passes else ())},
        "overlaps": _each_once([overlap for _, part in measured for overlap in part["overlaps"]]),
    }
    text = json.dumps({**rows, **result}, indent=1)
    Folder(str(folder)).write_bytes(METRICS_NAME, (text + "\n").encode())
    return result


def _read(path: Path) -> dict[str, Any]:
    try:
        part = parse_json_object(path.read_bytes())
        if part.get("full_spectrum_rows") and "full_spectrum_accuracy" not in part:
            raise ValueError("of an older version")
        return part
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"{path} cannot be read ({reason_of(error)}); delete {path.parent} and run the same command again."
        ) from error


def _renamed(methods: Mapping[str, str], part: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return [{**row, "detector": methods[row["detector"]]} for row in part.get(name, [])]


def _in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By arm and seed as they come, and by method as the table has them."""
    runs = list(dict.fromkeys((row["arm"], row["seed"]) for row in rows))
    order = list(METHODS)
    return sorted(rows, key=lambda row: (runs.index((row["arm"], row["seed"])), order.index(row["detector"])))


def _each_once(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for number, row in enumerate(rows) if row not in rows[:number]]


def _join_scores(parts: Sequence[tuple[Mapping[str, str], Path]], folder: Path) -> None:
    """All scores, a row group per network and method, as `write_results` leaves them."""
    path = folder / SCORES_NAME
    partial = path.with_name(f".{SCORES_NAME}.partial")
    with pq.ParquetWriter(partial, pq.read_schema(parts[0][1])) as writer:
        for methods, scores in parts:
            file = pq.ParquetFile(scores)
            for number in range(file.num_row_groups):
                table = file.read_row_group(number)
                position = table.column_names.index("detector")
                field = table.schema.field(position)
                method = methods[table["detector"][0].as_py()]  # a row group has the rows of one
                names = pa.repeat(pa.scalar(method, field.type), len(table))
                writer.write_table(table.set_column(position, field, names))
    partial.replace(path)
