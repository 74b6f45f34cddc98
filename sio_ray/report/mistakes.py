"""Find the worst mistakes of a detector: the most ID-looking OOD images and the most OOD-looking ID images."""

from __future__ import annotations

import numpy as np
import pandas as pd


def worst_mistakes(run: pd.DataFrame, group: str, count: int) -> pd.DataFrame:
    """The images of a group that the scores place furthest on the wrong side.

    Args:
        run: scores of one detector in one run: `group`, `image_set`, `image_id`, `ood_score`.
        group: `near` or `far` for OOD images of the lowest scores, `id` for ID images of the highest.
        count: images; fewer where there are fewer.

    Returns:
        image_set, image_id, ood_score, passed; the worst first, ties by set and id. `passed` is what the image leaves
        behind: of an OOD image the share of ID images with a higher score, of an ID image the share of OOD images with
        a lower one, every OOD set weighed the same.
    """
    is_ood = group != "id"
    mine = run.loc[run["group"] == group, ["image_set", "image_id", "ood_score"]]
    worst = mine.sort_values(["ood_score", "image_set", "image_id"], ascending=[is_ood, True, True]).head(count)
    others = run[run["group"] == "id"] if is_ood else run[run["group"].isin(["near", "far"])]
    sets = [
        np.sort(scores.to_numpy()) for _, scores in others.groupby(["group", "image_set"], observed=True)["ood_score"]
    ]
    scores = worst["ood_score"].to_numpy()
    if is_ood:
        shares = [1 - np.searchsorted(values, scores, side="right") / len(values) for values in sets]
    else:
        shares = [np.searchsorted(values, scores, side="left") / len(values) for values in sets]
    return worst.assign(passed=np.mean(shares, axis=0)).reset_index(drop=True)
