"""The worst mistakes are those of a plain sort, and what they pass is counted by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sio_ray.report.mistakes import worst_mistakes


def run(**sets):
    """Scores by `group__name`."""
    parts = []
    for name, scores in sets.items():
        group, image_set = name.split("__")
        columns = {"group": group, "image_set": image_set, "image_id": np.arange(len(scores)), "ood_score": scores}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


RUN = run(
    id__test=[0.0, 1.0, 2.0, 3.0],
    near__a=[5.0, 0.5, 9.0],
    far__b=[2.0, 7.0],
    far__c=[-1.0, 2.5, 8.0, 8.0],
    id_shifted__d=[99.0, -99.0],
)


def test_near_and_far_mistakes_have_the_lowest_scores():
    near = worst_mistakes(RUN, "near", 2)
    assert near["image_id"].tolist() == [1, 0]
    assert near["passed"].tolist() == [0.75, 0.0]
    far = worst_mistakes(RUN, "far", 3)
    assert list(zip(far["image_set"], far["image_id"], strict=True)) == [("c", 0), ("b", 0), ("c", 1)]
    assert far["passed"].tolist() == [1.0, 0.25, 0.25]


def test_id_mistakes_have_the_highest_scores_and_pass_ood_images_set_by_set():
    worst = worst_mistakes(RUN, "id", 2)
    assert worst["image_id"].tolist() == [3, 2]
    assert worst["passed"].tolist() == pytest.approx([(1 / 3 + 1 / 2 + 2 / 4) / 3, (1 / 3 + 0 + 1 / 4) / 3])


def test_ties_are_broken_by_set_and_id_and_fewer_are_given_than_asked():
    tied = run(id__test=[1.0], far__z=[0.0, 0.0], far__a=[0.0])
    worst = worst_mistakes(tied, "far", 10)
    assert list(zip(worst["image_set"], worst["image_id"], strict=True)) == [("a", 0), ("z", 0), ("z", 1)]
    assert worst_mistakes(tied, "near", 10).empty


def test_the_order_of_rows_changes_nothing_and_categories_do_not_either():
    shuffled = RUN.sample(frac=1, random_state=0).astype({"group": "category", "image_set": "category"})
    for group in ("near", "far", "id"):
        pd.testing.assert_frame_equal(
            worst_mistakes(shuffled, group, 3),
            worst_mistakes(RUN, group, 3),
            check_dtype=False,
            check_categorical=False,
        )
