"""The README's own training loop runs as it stands there, without Ray."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from markdown_commands import code_blocks, read_document

from sio_ray import ImageSetInfo, write_image_set

README = read_document("README.md")

BEFORE = """
import sys
from torch import nn, optim
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
optimizer = optim.SGD(model.parameters(), lr=0.1)
"""
AFTER = """
assert step == 999 and loss.item() < 0.1, loss
assert not {"ray", "diffusers"} & set(sys.modules)
"""


def test_the_training_loop_of_the_readme_learns(tmp_path):
    (code,) = code_blocks(README, "python")
    assert len([line for line in code.splitlines() if line.strip()]) < 10
    rng = np.random.default_rng(0)
    info = ImageSetInfo(class_names=("dark", "bright"), height_px=8, width_px=8, channels=1)
    for name, count in (("real", 50), ("synthetic", 20)):
        labels = np.arange(count) % 2
        images = (rng.integers(0, 100, (count, 1, 8, 8)) + 150 * labels[:, None, None, None]).astype(np.uint8)
        write_image_set(tmp_path / name, info, images, labels)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BEFORE + code + AFTER], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", re.findall(r"`(sio_ray/[\w/.]+|jobs/|tune_spaces/|studies/)`", README))
def test_the_map_names_what_is_there(path):
    assert (Path(__file__).parents[1] / path).exists()
