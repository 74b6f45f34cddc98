"""Metrics in the CSV files that OpenOOD v1.5 writes, for whoever has scripts that read these.

There are two: its pipelines write `ood.csv` for each network and postprocessor, its script `eval_ood.py` a table of the
mean and standard deviation over networks for each postprocessor. FPR@95 and AUPR_OUT have OOD as the positive class,
AUPR_IN has ID. ACC is the network's ID accuracy, also where a postprocessor predicts other classes than the network; of
the full spectrum, its accuracy over ID test and covariate-shifted images together.
"""

from __future__ import annotations

import csv
import io

import pandas as pd

from sio_ray.errors import EvaluationError
from sio_ray.imageset.storage import Folder

#: Column there to ours, in the order there.
_COLUMNS = {
    "FPR@95": "fpr_at_95_tpr",
    "AUROC": "auroc",
    "AUPR_IN": "aupr_in",
    "AUPR_OUT": "aupr_out",
    "ACC": "accuracy",
}

#: Our detector to its name there, where that is another.
_POSTPROCESSORS = {
    "temp_scale": "temp_scaling",
    "max_logit": "mls",
    "energy": "ebo",
    "grad_norm": "gradnorm",
    "g_odin": "godin",
    "mds_ens": "mds_ensemble",
    "rank_feat": "rankfeat",
}


def write_openood_csv(folder: Folder, metrics: pd.DataFrame, id_accuracy: pd.DataFrame, *, scheme: str = "ood") -> None:
    """Write `{arm}_{postprocessor}/s{seed}/{scheme}/ood.csv` for each run and `{arm}/{scheme}/{postprocessor}.csv`.

    Args:
        folder: where to.
        metrics: as `protocol.summarise` takes them.
        id_accuracy: arm, seed, accuracy (a fraction in [0, 1]), over what the scheme has among ID; one row per network.
        scheme: `ood`, or `fsood` for the full spectrum, as OpenOOD calls them.

    Raises:
        EvaluationError: a network without an accuracy.
    """
    rows = metrics.merge(id_accuracy[["arm", "seed", "accuracy"]], on=["arm", "seed"], how="left")
    if rows["accuracy"].isna().any():
        arm, seed = rows.loc[rows["accuracy"].isna(), ["arm", "seed"]].iloc[0]
        raise EvaluationError(f"arm {arm!r}, seed {seed} has metrics and no ID accuracy; evaluate that run again.")
    for (arm, detector), of_detector in rows.groupby(["arm", "detector"], sort=False):
        name = _POSTPROCESSORS.get(detector, detector)
        tables = {seed: _table(of_run) for seed, of_run in of_detector.groupby("seed", sort=False)}
        for seed, table in tables.items():
            run_folder = folder.subfolder(f"{arm}_{name}/s{seed}/{scheme}")
            run_folder.write_bytes("ood.csv", _of_run(table).encode())
        folder.subfolder(f"{arm}/{scheme}").write_bytes(f"{name}.csv", _over_runs(list(tables.values())).encode())


def _table(of_run: pd.DataFrame) -> pd.DataFrame:
    """Percent: the near sets in their order, their unweighted mean `nearood`, then the same of the far sets."""
    parts = []
    for group in ("near", "far"):
        of_group = of_run[of_run["group"] == group].set_index("ood_set")[list(_COLUMNS.values())]
        if len(of_group):
            parts += [of_group, of_group.mean().to_frame(f"{group}ood").T]
    return (100 * pd.concat(parts)).set_axis(list(_COLUMNS), axis=1)


def _of_run(table: pd.DataFrame) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["dataset", *_COLUMNS])
    writer.writerows([name, *(f"{value:.2f}" for value in row)] for name, *row in table.itertuples())
    return buffer.getvalue()


def _over_runs(tables: list[pd.DataFrame]) -> str:
    """Mean and standard deviation (ddof 0), as pandas writes them there."""
    runs = pd.concat(tables, keys=range(len(tables))).groupby(level=1, sort=False)
    mean, std = runs.mean(), runs.std(ddof=0)
    text = mean.map("{:.2f}".format) + " \u00b1 " + std.map("{:.2f}".format)
    return str(text.rename_axis(None).to_csv(lineterminator="\n"))
