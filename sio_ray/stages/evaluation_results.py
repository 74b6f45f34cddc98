"""What an evaluation leaves for people and for the report: the parts of all networks in a few files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sio_ray.errors import EvaluationError
from sio_ray.evaluation.overlap import Overlap
from sio_ray.evaluation.scoring import ABOUT, PROJECTION, Parts, SharedSets
from sio_ray.evaluation.shared_outputs import SharedOutputs
from sio_ray.imageset.storage import Folder
from sio_ray.ood.openood_csv import write_openood_csv
from sio_ray.ood.projection import to_arrow
from sio_ray.ood.summary import summarise
from sio_ray.progress import console

METRICS_NAME, SCORES_NAME, PROJECTION_NAME = "metrics.json", "scores.parquet", "projection.parquet"

#: Folder of the tables in OpenOOD's layout.
OPENOOD_NAME = "openood"


@dataclass(frozen=True)
class Scored:
    """One network whose figures are wanted.

    Attributes:
        arm: whose figures they are.
        seed: of the training run, or its number among those that were given.
        detectors: names.
        share: begins to read its outputs into the object store.
        share_synthetic: the same for what it says of the synthetic set, if it was asked.
    """

    arm: str
    seed: int
    detectors: tuple[str, ...]
    share: Callable[[], SharedSets]
    share_synthetic: Callable[[], SharedOutputs | None] = lambda: None

    @property
    def name(self) -> str:
        """Such as `sio, seed 0`."""
        return f"{self.arm}, seed {self.seed}"

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the parts that it leaves."""
        return (*self.detectors, ABOUT, PROJECTION)

    def without(self, failed: Collection[str]) -> list[str]:
        """Its detectors but those that failed."""
        return [detector for detector in self.detectors if detector not in failed]

    def parts(self, folder: Path) -> Parts:
        """Where they lie, in the folder of the evaluation."""
        return Parts(str(folder / "parts" / f"{self.arm}-seed{self.seed}"))


def write_results(
    scored: Sequence[Scored],
    folder: Path,
    quality: dict[str, Any],
    extraction: dict[str, Any],
    overlaps: Sequence[Overlap] | None,
) -> dict[str, Any]:
    """Put the parts of all networks into the few files that people read.

    Args:
        scored: the networks, all of whose parts are there.
        folder: of the evaluation.
        quality: of the synthetic set.
        extraction: what the passes over the images took.
        overlaps: test images that were trained on; None if nobody looked.

    Returns:
        The result of the stage.
    """
    failed = _failures(scored, folder)
    rows = _rows(scored, folder, failed)
    quality = quality | _agreement(scored, folder)
    storage = Folder(str(folder))
    _write_scores(scored, folder, failed)
    storage.write_bytes(PROJECTION_NAME, _to_parquet(_projections(scored, folder)))
    metrics, accuracies = pd.DataFrame(rows["metrics"]), pd.DataFrame(rows["id_accuracy"])
    csv_folder = storage.subfolder(OPENOOD_NAME)
    write_openood_csv(csv_folder, metrics, accuracies)
    result: dict[str, Any] = {"summary": records_of(summarise(metrics)), "id_accuracy": rows["id_accuracy"]}
    if rows["full_spectrum"]:
        full_spectrum = pd.DataFrame(rows["full_spectrum"])
        write_openood_csv(csv_folder, full_spectrum, pd.DataFrame(rows["full_spectrum_accuracy"]), scheme="fsood")
        result["full_spectrum"] = records_of(summarise(full_spectrum))
    result |= {
        "quality": quality,
        "failed": failed,
        "extraction": extraction,
        "overlaps": None if overlaps is None else [_overlap_row(overlap) for overlap in overlaps],
    }
    text = json.dumps({**rows, **result, "full_spectrum_rows": rows["full_spectrum"]}, indent=1)
    storage.write_bytes(METRICS_NAME, (text + "\n").encode())
    return result


def _overlap_row(overlap: Overlap) -> dict[str, Any]:
    return {"ood_set": overlap.tested, "other_set": overlap.other, "num_images": overlap.num_images}


def _rows(scored: Sequence[Scored], folder: Path, failed: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """The tables of `metrics.json`: one row per network, detector, and what else the table is about."""
    rows: dict[str, list[dict[str, Any]]] = {
        name: []
        for name in (
            *("metrics", "full_spectrum", "settings", "sweeps", "costs"),
            *("id_accuracy", "full_spectrum_accuracy"),
        )
    }
    for network in scored:
        parts, keys = network.parts(folder), {"arm": network.arm, "seed": network.seed}
        about = parts.read(ABOUT)
        rows["id_accuracy"].append({**keys, "accuracy": about["accuracy"]})
        if "full_spectrum_accuracy" in about:
            rows["full_spectrum_accuracy"].append({**keys, "accuracy": about["full_spectrum_accuracy"]})
        for detector in network.without(failed):
            part, of_detector = parts.read(detector), {**keys, "detector": detector}
            for name in ("metrics", "full_spectrum"):
                rows[name] += [of_detector | row for row in part[name]]
            rows["sweeps"] += [of_detector | row for row in part["sweep"]]
            chosen = [row["val_auroc"] for row in part["sweep"] if row["setting"] == part["setting"]]
            rows["settings"].append({**of_detector, "setting": part["setting"], "val_auroc": (chosen or [None])[0]})
            rows["costs"].append(of_detector | part["seconds"])
    return rows


def _agreement(scored: Sequence[Scored], folder: Path) -> dict[str, Any]:
    """Share of synthetic images that get their label, mean over the networks that were asked; empty if none was."""
    found = [network.parts(folder).read(ABOUT)["agreement"] for network in scored]
    agreements = [agreement for agreement in found if agreement is not None]
    if not agreements:
        return {}
    by_class = zip(*(agreement["by_class"] for agreement in agreements), strict=True)
    return {
        "label_agreement": sum(agreement["mean"] for agreement in agreements) / len(agreements),
        # A class without synthetic images has none.
        "label_agreement_by_class": [None if None in values else sum(values) / len(values) for values in by_class],
    }


def _projections(scored: Sequence[Scored], folder: Path) -> pa.Table:
    """Features of all networks in two dimensions."""
    runs = []
    for network in scored:
        parts = network.parts(folder)
        shares = tuple(parts.read(PROJECTION)["shares"])
        runs.append((network.arm, network.seed, shares, parts.table(PROJECTION)))
    return to_arrow(runs)


def _failures(scored: Sequence[Scored], folder: Path) -> dict[str, str]:
    """Detectors that cannot score some network, and why; they are left out for all, so that arms stay comparable.

    Raises:
        EvaluationError: no detector is left.
    """
    failed: dict[str, str] = {}
    for network in scored:
        for detector in network.detectors:
            reason = network.parts(folder).read(detector).get("failed")
            if reason is not None and detector not in failed:
                failed[detector] = f"{network.name}: {reason}"
    if all(not network.without(failed) for network in scored):
        raise EvaluationError(f"no detector can score these networks; the first failure: {next(iter(failed.values()))}")
    for detector, reason in failed.items():
        text = f"  left out for all networks: {detector} ({reason})"
        console.print(text, style="yellow", markup=False, soft_wrap=True)
    return failed


def _write_scores(scored: Sequence[Scored], folder: Path, failed: Collection[str]) -> None:
    """One table of all scores, a row group per network and detector, so that one is read without the others."""
    partial_path = folder / f".{SCORES_NAME}.partial"
    writer: pq.ParquetWriter | None = None
    for network in scored:
        for detector in network.without(failed):
            table = network.parts(folder).table(detector)
            keys = {"arm": network.arm, "seed": network.seed, "detector": detector}
            table = pa.Table.from_pandas(table.assign(**keys)[[*keys, *table.columns]], preserve_index=False)
            writer = writer or pq.ParquetWriter(partial_path, table.schema)
            writer.write_table(table)
    assert writer is not None, "a config names detectors"
    writer.close()
    partial_path.replace(folder / SCORES_NAME)


def _to_parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def records_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as JSON values."""
    records: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=10))
    return records
