"""A stage that draws nothing does not wait for diffusers, which takes seconds to import."""

from __future__ import annotations

import subprocess
import sys

MODULES = ("stages.preflight", "stages.prepare", "stages.train", "stages.evaluate", "stages.report", "tune.stage")


def test_a_stage_that_draws_nothing_imports_no_diffusers() -> None:
    imports = "; ".join(f"import sio_ray.{module}" for module in MODULES)
    code = f"import sys; {imports}; print({{'diffusers', 'transformers', 'torch._dynamo'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("set()\n", 0), done.stderr
