"""What lies below Ray's edge imports no Ray, so it runs, and is tested, where there is none."""

from __future__ import annotations

import subprocess
import sys

MODULES = (
    "config",
    "errors",
    "provenance",
    "seeding",
    "progress",
    "imageset",
    "classifier.augment",
    "classifier.batch",
    "classifier.feed",
    "classifier.algorithms",
    "classifier.ensemble",
    "classifier.exchange",
    "classifier.objective",
    "classifier.trainee",
    "commands.checkpoint",
    "commands.images",
    "commands.jobs",
    "commands.logs",
    "commands.submit",
    "datasets",
    "diffusion.trainee",
    "generate.job",
    "generate.shards",
    "jobs.parcel",
    "jobs.travel",
    "imageset.exchange",
    "imageset.verify",
    "quality.measure",
    "quality.plot",
    "quality.verdict",
    "imageset.content_hash",
    "imageset.lookup",
    "ood.detectors",
    "ood.detectors.reading",
    "ood.extract",
    "ood.metrics",
    "ood.projection",
    "ood.protocol",
    "ood.store",
    "report.page",
    "stages.layout",
    "stages.preflight",
    "stages.prepare",
    "stages.record",
    "watching.events",
    "watching.grafana",
    "watching.metrics",
)


def test_no_module_below_the_edge_imports_ray() -> None:
    imports = "; ".join(f"import sio_ray.{module}" for module in MODULES)
    code = f"import sys; {imports}; print([name for name in sys.modules if name.split('.')[0] == 'ray'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.strip() == "[]"
