"""OpenOOD's CSV files: the text that its evaluator and its script write for the same figures."""

from __future__ import annotations

import csv
import io

import numpy as np
import pandas as pd
import pytest

from sio_ray.errors import EvaluationError
from sio_ray.imageset.storage import Folder
from sio_ray.ood.metrics import ood_metrics
from sio_ray.ood.openood_csv import write_openood_csv

#: Group and name of each OOD set; far comes first here, and not there.
SETS = [("far", "mnist"), ("near", "cifar100"), ("near", "tin"), ("far", "svhn")]


def metrics_row(arm: str, seed: int, detector: str, group: str, ood_set: str, *values: float) -> dict:
    names = ("fpr_at_95_tpr", "auroc", "aupr_in", "aupr_out", "fpr_at_95_id_tpr")
    keys = {"arm": arm, "seed": seed, "detector": detector, "group": group, "ood_set": ood_set}
    return keys | dict(zip(names, values, strict=True))


def accuracies(*values: float, arm: str = "sio") -> pd.DataFrame:
    return pd.DataFrame({"arm": arm, "seed": range(len(values)), "accuracy": values})


def read(folder, *parts: str) -> str:
    return folder.joinpath(*parts).read_bytes().decode()


def test_the_text_is_what_their_evaluator_writes(tmp_path):
    rows = [
        metrics_row("sio", 0, "energy", "far", "mnist", 0.25, 0.5, 0.125, 0.0, 9),
        metrics_row("sio", 0, "energy", "near", "cifar100", 0.61278, 0.8632, 0.88112, 0.7, 9),
        metrics_row("sio", 0, "energy", "near", "tin", 0.5, 0.88, 1.0, 0.6, 9),
    ]
    write_openood_csv(Folder(str(tmp_path)), pd.DataFrame(rows), accuracies(0.95061))
    # By hand: '{:.2f}'.format(100 * x), rows near, their mean, far, their mean; csv.DictWriter ends lines with CR LF.
    assert read(tmp_path, "sio_ebo", "s0", "ood", "ood.csv") == (
        "dataset,FPR@95,AUROC,AUPR_IN,AUPR_OUT,ACC\r\n"
        "cifar100,61.28,86.32,88.11,70.00,95.06\r\n"
        "tin,50.00,88.00,100.00,60.00,95.06\r\n"
        "nearood,55.64,87.16,94.06,65.00,95.06\r\n"
        "mnist,25.00,50.00,12.50,0.00,95.06\r\n"
        "farood,25.00,50.00,12.50,0.00,95.06\r\n"
    )


def test_the_table_over_seeds_is_what_their_script_writes(tmp_path):
    rows = [
        metrics_row("sio", seed, "msp", "near", "tin", fpr, auroc, 0.5, 0.5, 9)
        for seed, (fpr, auroc) in enumerate([(0.30, 0.90), (0.33, 0.91), (0.36, 0.95)])
    ]
    write_openood_csv(Folder(str(tmp_path)), pd.DataFrame(rows), accuracies(0.95, 0.96, 0.94), scheme="fsood")
    # Standard deviations with ddof 0: 3 * sqrt(2 / 3), sqrt(14 / 3), and sqrt(2 / 3).
    line = "33.00 \u00b1 2.45,92.00 \u00b1 2.16,50.00 \u00b1 0.00,50.00 \u00b1 0.00,95.00 \u00b1 0.82"
    expected = f",FPR@95,AUROC,AUPR_IN,AUPR_OUT,ACC\ntin,{line}\nnearood,{line}\n"
    assert read(tmp_path, "sio", "fsood", "msp.csv") == expected
    assert sorted(path.name for path in tmp_path.glob("sio_msp/*/fsood/ood.csv")) == ["ood.csv"] * 3


def evaluate_as_they_do(id_scores, ood_sets, accuracy):
    """Their formulas, from scores: sklearn's curves with OOD positive for FPR and AUPR_OUT, ID positive for AUPR_IN."""
    from sklearn import metrics

    table = []
    for group in ("near", "far"):
        of_group = []
        for (of, name), scores in ood_sets.items():
            if of == group:
                is_ood = np.r_[np.zeros(len(id_scores)), np.ones(len(scores))]
                confidence = -np.r_[id_scores, scores]
                fpr, tpr, _ = metrics.roc_curve(is_ood, -confidence)
                precision_in, recall_in, _ = metrics.precision_recall_curve(1 - is_ood, confidence)
                precision_out, recall_out, _ = metrics.precision_recall_curve(is_ood, -confidence)
                row = [
                    fpr[np.argmax(tpr >= 0.95)],
                    metrics.auc(fpr, tpr),
                    metrics.auc(recall_in, precision_in),
                    metrics.auc(recall_out, precision_out),
                    accuracy,
                ]
                of_group.append((name, row))
        table += [*of_group, (f"{group}ood", np.mean([row for _, row in of_group], axis=0))]
    return [{"dataset": name, "values": [f"{100 * value:.2f}" for value in row]} for name, row in table]


def test_scores_lead_to_the_figures_that_their_evaluator_finds(tmp_path, rng):
    id_scores = rng.normal(0, 1, 400)
    ood_sets = {key: rng.normal(0.5 + 0.5 * number, 1, 200 + number) for number, key in enumerate(SETS)}
    rows = []
    for (group, name), scores in ood_sets.items():
        found = ood_metrics(id_scores, scores)
        keys = {"arm": "baseline", "seed": 0, "detector": "knn", "group": group, "ood_set": name}
        rows.append(keys | vars(found))
    write_openood_csv(Folder(str(tmp_path)), pd.DataFrame(rows), accuracies(0.912, arm="baseline"))
    parsed = list(csv.DictReader(io.StringIO(read(tmp_path, "baseline_knn", "s0", "ood", "ood.csv"), newline="")))
    theirs = evaluate_as_they_do(id_scores, ood_sets, 0.912)
    assert [row["dataset"] for row in parsed] == ["cifar100", "tin", "nearood", "mnist", "svhn", "farood"]
    for ours, expected in zip(parsed, theirs, strict=True):
        assert ours["dataset"] == expected["dataset"]
        assert [ours[name] for name in ("FPR@95", "AUROC", "AUPR_IN", "AUPR_OUT", "ACC")] == expected["values"]


def test_every_arm_seed_and_detector_has_its_file_under_their_name_of_it(tmp_path):
    rows = [
        metrics_row(arm, seed, detector, group, name, *[0.5] * 5)
        for arm in ("baseline", "sio")
        for seed in (0, 1)
        for detector in ("max_logit", "grad_norm", "vim")
        for group, name in SETS
    ]
    both = pd.concat([accuracies(0.5, 0.5), accuracies(0.5, 0.5, arm="baseline")])
    write_openood_csv(Folder(str(tmp_path)), pd.DataFrame(rows), both)
    runs = {f"{arm}_{name}/s{seed}/ood/ood.csv" for arm in ("baseline", "sio") for name in NAMES for seed in (0, 1)}
    tables = {f"{arm}/ood/{name}.csv" for arm in ("baseline", "sio") for name in NAMES}
    assert set(Folder(str(tmp_path)).files(below=True)) == runs | tables


NAMES = ("mls", "gradnorm", "vim")


def test_a_network_without_an_accuracy_is_named(tmp_path):
    rows = [metrics_row("sio", seed, "msp", "near", "tin", *[0.5] * 5) for seed in (0, 1)]
    with pytest.raises(EvaluationError) as error:
        write_openood_csv(Folder(str(tmp_path)), pd.DataFrame(rows), accuracies(0.5))
    assert str(error.value) == "arm 'sio', seed 1 has metrics and no ID accuracy; evaluate that run again."
    assert not list(tmp_path.iterdir())
