"""Writes the page of a study in Markdown: the verdict, the table, ablations, and how it was made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sio_ray.config import to_yaml
from sio_ray.report.comparison import AUROC, FPR, GROUP_NAMES
from sio_ray.report.numbers import duration, moment, plural
from sio_ray.study.results import AblationRow, MethodRow, StudyResults
from sio_ray.study.statistics import Paired, sign_test

_NEAR, _FAR = ("near", AUROC.key), ("far", AUROC.key)
_ACCURACY = ("id", "accuracy")


def to_markdown(results: StudyResults, figures: dict[str, str], command: str) -> str:
    """The whole page.

    Args:
        results: of the study.
        figures: name (`near`, `far`, `pictures`, those of ablations) to the path of its file, as the page links it.
        command: that writes the page.
    """
    study, data = results.study, results.data
    lines = [
        f"# {study.title}",
        "",
        f"Written by `{command}` from what its runs left; do not edit.",
        "",
        *([study.about.strip(), ""] if study.about else []),
        "## Result",
        "",
        *_verdict(results),
        "",
    ]
    for group in ("near", "far"):
        lines += [*_table(results, group), "", *_figure(figures, group, f"{GROUP_NAMES[group]} AUROC of both arms"), ""]
    lines += [*_accuracies(results), ""]
    if data.quality:
        lines += ["## The synthetic images", "", *_quality(results), ""]
        lines += [*_figure(figures, "pictures", "Real pictures, and below them synthetic ones of the class"), ""]
    if results.ablations:
        lines += ["## Ablations", "", *_about_ablations(results), ""]
        for ablation, rows in results.ablations:
            lines += [f"### {ablation.title}", "", *([ablation.note.strip(), ""] if ablation.note else [])]
            lines += [*_ablation_table(ablation.column, rows), ""]
            lines += [*_figure(figures, ablation.name, ablation.title), ""]
    lines += ["## How it was made", "", *_making(results, command)]
    return "\n".join(_without_double_blanks(lines)) + "\n"


def _verdict(results: StudyResults) -> Iterator[str]:
    near, far, accuracy = (results.mean.cells[key] for key in (_NEAR, _FAR, _ACCURACY))
    counted = [row for row in results.rows if row.name in results.in_mean]
    gains = [cell.gain for row in counted if (cell := row.cells[_NEAR]) is not None]
    if near is None:
        yield "The two arms share no seed, so nothing is compared."
        return
    seeds = plural(near.baseline.num_seeds, "seed")
    yield (
        f"- Near-OOD AUROC, mean over {plural(len(counted), 'method')} and {seeds}: "
        f"{_pct(near.baseline.mean)} without SIO, {_pct(near.sio.mean)} with it, **{_points(near)}** points"
        f"{_p(near)}."
    )
    if results.study.goal_points is not None:
        reached = "reached" if 100 * near.difference >= results.study.goal_points else "not reached"
        yield f"- The paper's gain on CIFAR-10 is {results.study.goal_points:+.2f} points, which is {reached} here."
    worse = [row.title for row in counted if (cell := row.cells[_NEAR]) is not None and cell.is_worse_beyond_noise]
    p = sign_test(gains)
    chance = (
        "" if p is None else f" (sign test, p {_p_value(p)} if methods were independent; those of one network are not)"
    )
    yield f"- {sum(gain > 0 for gain in gains)} of {plural(len(gains), 'method')} gain{chance}."
    yield f"- Worse by more than the standard deviation of the difference: {', '.join(worse) or 'none'}."
    if far is not None:
        yield f"- Far-OOD AUROC: {_pct(far.baseline.mean)} to {_pct(far.sio.mean)}, {_points(far)} points{_p(far)}."
    if accuracy is not None:
        base, sio = _pct(accuracy.baseline.mean), _pct(accuracy.sio.mean)
        yield f"- ID accuracy: {base} to {sio}, {_points(accuracy)} points{_p(accuracy)}."


def _table(results: StudyResults, group: str) -> Iterator[str]:
    yield f"### {GROUP_NAMES[group]}"
    yield ""
    yield "| method | AUROC | +SIO | difference | p | FPR@95 | +SIO | difference |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for row in results.rows:
        mark = "" if row.name in results.in_mean else " *"
        yield _line(row.title + mark, row, group)
    yield _line(f"**{results.mean.title}**", results.mean, group)
    left_out = [row.title for row in results.rows if row.name not in results.in_mean]
    yield ""
    yield (
        "Percent, mean ± standard deviation (ddof 0) over seeds, unweighted over the sets of the group; p of a paired "
        "t-test over seeds, both arms of a seed starting from the same weights. FPR@95: lower is better."
        + (f" *: {', '.join(left_out)} is in the authors' code but not in the paper's mean." if left_out else "")
    )


def _line(title: str, row: MethodRow, group: str) -> str:
    area, alarms = row.cells[group, AUROC.key], row.cells[group, FPR.key]
    cells = [title, *_both(area), _points(area), _chance(area)]
    return "| " + " | ".join([*cells, *_both(alarms), _points(alarms)]) + " |"


def _accuracies(results: StudyResults) -> Iterator[str]:
    yield "### ID accuracy"
    yield ""
    yield "| networks of | accuracy | +SIO | difference | p |"
    yield "|---|--:|--:|--:|--:|"
    seen: dict[tuple[str, ...], list[str]] = {}
    for row in results.rows:
        cell = row.cells[_ACCURACY]
        seen.setdefault((*_both(cell), _points(cell), _chance(cell)), []).append(row.title)
    for cells, titles in seen.items():
        yield "| " + " | ".join([", ".join(titles), *cells]) + " |"


def _quality(results: StudyResults) -> Iterator[str]:
    quality = results.data.quality
    if "num_synthetic" in quality:
        yield f"- {int(quality['num_synthetic']):,} synthetic images for {int(quality.get('num_real', 0)):,} real ones."
    if "label_agreement" in quality:
        yield f"- Real-trained classifiers give {_pct(quality['label_agreement'])} % of them their label."
    if "median_distance_synthetic" in quality:
        yield (
            f"- Nearest training image, median distance per pixel: {quality['median_distance_synthetic']:.4f}, for "
            f"held-out real images {quality['median_distance_held_out']:.4f}; {int(quality['num_copies'])} of "
            f"{int(quality['num_compared']):,} are nearer to one than any held-out image is."
        )


def _about_ablations(results: StudyResults) -> Iterator[str]:
    yield (
        "Each changes one thing in the config below. AUROC and ID accuracy in percent, means over "
        f"{', '.join(results.ablation_titles)}; ± is the standard deviation of the difference over seeds."
    )


def _ablation_table(column: str, rows: Sequence[AblationRow]) -> Iterator[str]:
    yield f"| {column} | near-OOD | +SIO | difference | far-OOD | +SIO | difference | accuracy | +SIO |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for row in rows:
        if row.cells is None:
            why = f"not to compare: no figure of {', '.join(row.lacking)}" if row.lacking else "not run"
            yield f"| {row.label} | {why} |" + " |" * 7
            continue
        near, far, accuracy = (row.cells[key] for key in (_NEAR, _FAR, _ACCURACY))
        values = [*_means(near), _spread(near), *_means(far), _spread(far), *_means(accuracy)]
        yield f"| {row.label} | " + " | ".join(values) + " |"


def _making(results: StudyResults, command: str) -> Iterator[str]:
    provenance, data = results.data.provenance, results.data
    yield "```bash"
    if commit := provenance.get("git_commit"):
        yield f"git checkout {commit.rstrip('+')}"
    yield "make install"
    yield f".venv/bin/{command}"
    yield "```"
    yield ""
    if provenance:
        yield f"- Machine: {provenance['machine']}."
        yield f"- Evaluated: {moment(provenance['date'])}, commit {provenance.get('git_commit') or 'unknown'}."
        yield "- Versions: " + ", ".join(f"{name} {version}" for name, version in provenance["versions"].items()) + "."
    if data.extraction:
        yield f"- {int(data.extraction['num_images']):,} images went through networks to evaluate them."
    yield ""
    yield "| stage | pieces of work | wall-clock, added up |"
    yield "|---|--:|--:|"
    for stage, (count, seconds) in results.wall_s.items():
        yield f"| {stage} | {count} | {duration(seconds)} |"
    yield ""
    yield "Pieces that ran side by side are added up, and so are attempts that were interrupted; of the table alone."
    yield ""
    yield "<details><summary>The config</summary>"
    yield ""
    yield "```yaml"
    yield to_yaml(
        results.config.model_copy(update={"output_dir": type(results.config).model_fields["output_dir"].default})
    ).strip()
    yield "```"
    yield ""
    yield "</details>"


def _figure(figures: dict[str, str], name: str, text: str) -> list[str]:
    return [f"![{text}]({figures[name]})"] if name in figures else []


def _pct(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _points(cell: Paired | None) -> str:
    return "" if cell is None else f"{100 * cell.difference:+.2f}".replace("-", "\N{MINUS SIGN}")


def _p(cell: Paired) -> str:
    return "" if cell.p is None else f" (paired t-test over seeds, p {_p_value(cell.p)})"


def _chance(cell: Paired | None) -> str:
    return "" if cell is None or cell.p is None else _p_value(cell.p).removeprefix("= ")


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _both(cell: Paired | None) -> list[str]:
    return ["", ""] if cell is None else [f"{_pct(e.mean)} ± {_pct(e.std)}" for e in (cell.baseline, cell.sio)]


def _means(cell: Paired | None) -> list[str]:
    return ["", ""] if cell is None else [_pct(cell.baseline.mean), _pct(cell.sio.mean)]


def _spread(cell: Paired | None) -> str:
    return "" if cell is None else f"{_points(cell)} ± {_pct(cell.std)}"


def _without_double_blanks(lines: Sequence[str]) -> Iterator[str]:
    before = ""
    for line in lines:
        if line or before:
            yield line
        before = line
