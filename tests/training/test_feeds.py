"""Which engine feeds a run is decided by that run's own sets, not by which others are trained beside it."""

from __future__ import annotations

import numpy as np
import pytest

from sio_ray.config import TrainConfig
from sio_ray.imageset import ImageSetInfo, write_image_set
from sio_ray.training import feeds
from sio_ray.training.feeds import cpus_of_feed, share_sources, streams


@pytest.fixture
def by_arm(tmp_path):
    """64 kB of real images, and as much again of synthetic ones."""
    info = ImageSetInfo(class_names=("a", "b"), height_px=8, width_px=8, channels=1)
    for name in ("real", "synthetic"):
        labels = np.arange(1000) % 2
        write_image_set(tmp_path / name, info, np.zeros((1000, 1, 8, 8), dtype=np.uint8), labels)
    real, synthetic = ((str(tmp_path / name), None) for name in ("real", "synthetic"))
    return {"baseline": {"real": real}, "sio": {"real": real, "synthetic": synthetic}}


@pytest.mark.parametrize(
    ("memory_limit_gb", "streamed"), [(0.0002, set()), (0.0001, {"sio"}), (0.00005, {"sio", "baseline"})]
)
def test_an_arm_streams_by_its_own_sets_alone(by_arm, memory_limit_gb, streamed, monkeypatch):
    monkeypatch.setattr(feeds, "share", lambda specs: {name: f"decoded {name}" for name in specs})
    section = TrainConfig(feed="auto", memory_limit_gb=memory_limit_gb, decoders_per_worker=2)
    together, val = share_sources(section, by_arm, "val")
    assert val == "decoded val"
    for arm, sources in by_arm.items():
        alone, _ = share_sources(section, {arm: sources}, "val")
        assert alone[arm] == together[arm]
        assert streams(section, sources) == (arm in streamed)
        assert cpus_of_feed(section, sources) == (2 if arm in streamed else 0)
        for name, spec in sources.items():
            assert together[arm][name] == (spec if arm in streamed else f"decoded {name}")
